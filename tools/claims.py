"""What the papers define and claim, and what became of it here: behind docs/claims.md. Tests check every name in it.

The numbers of a claim are worked out from the saved runs and the bench when the page is made (`verdicts`).
"""

from __future__ import annotations

from dataclasses import dataclass

import verdicts
from verdicts import I2T, PAPER, T2I, ZERO, Words, both, gains, primary, untested

CLIP, LIGHTCLIP, PING = "CLIP (arXiv 2103.00020)", "LightCLIP (arXiv 2312.00674)", "CLIP-PING (arXiv 2412.03871)"
OURS = "this course"
SOURCES = {
    "paper": "the paper itself, by its section", "abstract": "the paper's abstract",
    "summary": "a machine-written summary that comes with the abstract",
    "secondary": "machine-written summaries found elsewhere: a hint, not a proof", "our reading": "no text at hand says so",
}  # fmt: skip
SCENES = "ours are drawn scenes and towers of 1.4 million parameters: other pictures and other tests than the paper's"
SCALE = (
    "theirs is a ViT-XS on 3 million photos of the web, asked about ImageNet and Flickr30K; ours are towers of 1.4 million "
    "parameters on 16,384 drawn scenes"
)


@dataclass(frozen=True)
class Definition:
    """An equation or a part of a method, and where it is here.

    Attributes:
        title: in a few words.
        paper: whose.
        source: a key of SOURCES: where it is stated.
        stated: what it says, in our words.
        reading: what the source leaves open, and how we chose it; "" if nothing.
        functions: dotted names.
        tests: "file::test".
        cell: a notebook, a heading in it, and a piece of a code cell below that heading.
    """

    title: str
    paper: str
    source: str
    stated: str
    reading: str
    functions: tuple[str, ...]
    tests: tuple[str, ...]
    cell: tuple[str, str, str]


@dataclass(frozen=True)
class Claim:
    """A statement on results, and what came out here.

    Attributes:
        title, paper, source, stated, cell: as of a `Definition`.
        arms: of the plan, which it rests on.
        measured: the numbers.
        verdict: supported, not supported, mixed or untested.
        number: the paper's; "" if none is at hand.
        differs: how ours differs from the paper's.
        tests: that hold it, beside those of the numbers.
    """

    title: str
    paper: str
    source: str
    stated: str
    cell: tuple[str, str, str]
    arms: tuple[str, ...]
    measured: Words
    verdict: Words
    number: str = ""
    differs: str = ""
    tests: tuple[str, ...] = ()


DEFINITIONS = (
    Definition(
        "The contrast of a batch", CLIP, "paper",
        "Images and captions of a batch are classified among each other, both ways, by scaled cosines; the scale is learned "
        "(section 2.3) and never exceeds 100 (section 2.5).",
        "",
        ("lcl.losses.contrastive.info_nce", "lcl.models.clip.Clip.logit_scale"),
        (
            "losses/test_contrastive.py::test_value_and_gradients_are_those_of_open_clip",
            "losses/test_contrastive.py::test_a_query_is_asked_what_lightly_asks_when_the_others_lie_in_its_memory",
            "models/test_clip.py::test_the_logit_scale_never_exceeds_100",
        ),
        ("03_contrastive", "InfoNCE, from scratch", 'info_nce(v, t, scale)["info_nce"]'),
    ),
    Definition(
        "Labels are softened", LIGHTCLIP, "abstract",
        "Some pairs are not strictly one to one, so negatives get a share of the label; according to their similarity, says the "
        "summary.",
        "y = (1 - α)·[i = j] + α·w with w a softmax over the other cosines; the sharpness of w; that no gradient passes.",
        ("lcl.losses.contrastive.soft_targets", "lcl.losses.contrastive.soft_info_nce"),
        (
            "losses/test_contrastive.py::test_softened_it_is_the_formula_summed_by_a_slow_double_loop",
            "losses/test_contrastive.py::test_without_softening_it_is_info_nce_to_the_bit_gradients_included",
            "losses/test_contrastive.py::test_a_temperature_without_bound_is_label_smoothing",
        ),
        ("04_soft_labels", "From scratch", "soft_targets(s, 0.3, 0.1)"),
    ),
    Definition(
        "… progressively", LIGHTCLIP, "abstract",
        "The labels of negatives are softened progressively.",
        "The share grows during training, along half a cosine from 0 to α_max = 0.1. In trials a larger share, at a higher "
        "temperature and with a straight ramp, cost recall.",
        ("lcl.losses.contrastive.ramp", "lcl.train.recipes.SoftConfig"),
        (
            "losses/test_contrastive.py::test_a_ramp_never_falls_and_ends_at_its_largest_value",
            "train/test_recipes.py::test_softening_begins_as_clip_to_the_bit_and_then_departs",
        ),
        ("04_soft_labels", "Watch the labels during training", "LabelScrubber("),
    ),
    Definition(
        "Words and patches, matched one to one", LIGHTCLIP, "abstract",
        "A relaxed bipartite matching of image patches and words; one to one with minimal cost, says the summary.",
        "Cost 1 - cosine; patches may stay free, and a word may stay unmatched at a fixed cost.",
        ("lcl.losses.matching.exact", "lcl.losses.matching.sinkhorn"),
        (
            "losses/test_matching.py::test_ten_thousand_random_matchings_with_ties_cost_what_scipy_says",
            "losses/test_matching.py::test_a_tiny_matching_is_the_best_of_all_ways",
            "losses/test_matching.py::test_sinkhorn_comes_within_a_hundredth_of_the_optimum_and_keeps_its_margins",
        ),
        ("05_bipartite_matching", "Three words, four patches", "by_brute_force"),
    ),
    Definition(
        "The objective of the token level", LIGHTCLIP, "abstract",
        "Alignment of tokens is an objective of its own, beside that of whole images and captions.",
        "The loss itself: a pair's token similarity is the mean cosine of its matched words; it is contrasted with its 4 "
        "hardest negatives of the batch, never with an equal caption; its weight rises over the first half of the training.",
        ("lcl.losses.matching.matched_contrast", "lcl.losses.matching.token_similarity", "lcl.losses.matching.hardest"),
        (
            "losses/test_matching.py::test_the_objective_is_what_loops_and_scipy_make_of_it",
            "losses/test_matching.py::test_token_similarity_is_the_formula_worked_out_word_by_word",
        ),
        ("07_lightclip", "What breaks: the contrast of tokens at full weight from the first step", "without"),
    ),
    Definition(
        "Masked words, predicted with the image", LIGHTCLIP, "abstract",
        "Masked language modelling makes the most of a shortened text tower; a fusion module injects the image that is not "
        "masked into the masked text at several stages.",
        "One gated cross-attention block a text layer, its gate closed at first; 15 % of the words, 80/10/10; weight 0.5.",
        (
            "lcl.losses.masked_lm.FusionBlock", "lcl.losses.masked_lm.FusedMlm", "lcl.losses.masked_lm.masked_language",
            "lcl.models.tokenizer.mask_words",
        ),  # fmt: skip
        (
            "losses/test_masked_lm.py::test_a_fusion_block_is_attention_worked_out_token_by_token",
            "losses/test_masked_lm.py::test_a_fresh_block_is_the_identity_to_the_bit_and_its_gate_alone_learns_first",
            "models/test_tokenizer.py::test_of_the_chosen_words_8_in_10_are_hidden_1_is_replaced_and_1_stays",
        ),
        ("06_fused_mlm", "What the image says", "fusing(x, p, reference)"),
    ),
    Definition(
        "Banks of frozen encoders", PING, "abstract",
        "Features of arbitrary pre-trained unimodal encoders guide the training; they are kept in banks, say the secondary "
        "sources.",
        "EfficientNet-Lite0 at 128 pixels and MiniLM-L6, length one, half precision on disk.",
        ("lcl.teachers.banks.build_bank", "lcl.teachers.encoders.ImageEncoder", "lcl.teachers.encoders.TextEncoder"),
        (
            "teachers/test_banks.py::test_a_bank_of_real_encoders_holds_their_features_and_has_a_place_of_its_own",
            "teachers/test_banks.py::test_a_build_killed_at_any_step_and_started_again_gives_the_same_bytes",
        ),
        ("08_neighbour_mining", "A bank", "bank"),
    ),
    Definition(
        "Nearest neighbours (NN)", PING, "abstract",
        "Nearest neighbours are extra contrastive supervision; within a modality, say the secondary sources.",
        "An image against the projected image feature of its nearest image, a caption likewise; symmetric InfoNCE each; the "
        "model's own temperature; a weight that falls as (1 - p)².",
        ("lcl.losses.neighbours.nn_contrast", "lcl.teachers.search.nearest_neighbours", "lcl.losses.neighbours.Projections"),
        (
            "teachers/test_teacher.py::test_an_objective_is_its_formula_summed_term_by_term",
            "teachers/test_search.py::test_a_large_bank_has_the_neighbours_that_faiss_finds",
        ),
        ("09_clip_ping", "From scratch", 'nn_contrast(v, t, q(near), scale)["nn_contrast"]'),
    ),
    Definition(
        "Cross nearest neighbours (XNN)", PING, "abstract",
        "Cross nearest neighbours are extra contrastive supervision; across modalities, say the secondary sources.",
        "An image against the caption of its nearest image, a caption against the image of its nearest caption. The other "
        "plausible pairing is the arm `clip-ping+other-xnn`.",
        ("lcl.losses.neighbours.xnn_contrast",),
        (
            "teachers/test_teacher.py::test_an_objective_is_its_formula_summed_term_by_term",
            "teachers/test_teacher.py::test_a_guide_tells_the_banks_own_rows_of_the_nearest_image_and_the_nearest_caption",
        ),
        ("09_clip_ping", "From scratch", 'xnn_contrast(v, t, q(near), scale)["xnn_contrast"]'),
    ),
    Definition(
        "Active teachers (A-CLIP-PING)", PING, "secondary",
        "A variant whose teachers run live.",
        "The image teacher encodes the augmented view; neighbours come from a queue; captions from their bank.",
        ("lcl.teachers.teacher.LiveTeacher", "lcl.models.vision.augment"),
        ("teachers/test_teacher.py::test_a_live_guide_is_a_queue_of_views_first_in_first_out_where_no_row_is_its_own_neighbour",),
        ("09_clip_ping", "A-CLIP-PING: teachers that look at what the model sees", 'training_of("a-clip-ping")'),
    ),
)
"""What the papers define, in the order of the course."""

CLAIMS = (
    Claim(
        "LightCLIP is above CLIP, at equal steps", LIGHTCLIP, "abstract",
        "Higher performance on several downstream tasks. Our reading: than CLIP, at equal steps.",
        ("07_lightclip", "What does each level buy?", "comparison_table("),
        ("lightclip", "clip"),
        gains("lightclip", "recall@1", "ndcg@10", ZERO), primary(("lightclip", "clip")),
        differs=SCENES,
    ),
    Claim(
        "LightCLIP is above CLIP, at equal time", OURS, "our reading",
        "A step of LightCLIP takes longer. Does the gain remain if CLIP gets one and a half times the steps?",
        ("07_lightclip", "What does each level buy?", "comparison_table("),
        ("lightclip", "clip, 12 epochs"),
        gains("lightclip", "recall@1", "ndcg@10", ZERO, over="clip, 12 epochs"), primary(("lightclip", "clip, 12 epochs")),
    ),
    Claim(
        "Each level of LightCLIP helps alone", LIGHTCLIP, "secondary",
        "Each component alone improves.",
        ("07_lightclip", "What does each level buy?", "comparison_table("),
        ("clip+soft", "clip+match", "clip+mlm", "clip"),
        both(*(gains(arm, "recall@1", ZERO) for arm in ("clip+soft", "clip+match", "clip+mlm"))), untested,
        differs=SCENES,
    ),
    Claim(
        "Softened labels are above label smoothing", OURS, "our reading",
        "Label smoothing gives every other pair the same share. Does it matter where the share goes?",
        ("04_soft_labels", "From scratch", "soft_targets(s, 0.3, 0.1)"),
        ("clip+soft", "clip+smoothing"),
        gains("clip+soft", "recall@1", over="clip+smoothing"), primary(("clip+soft", "clip+smoothing")),
    ),
    Claim(
        "One-to-one matching aligns better than the maximum", OURS, "our reading",
        "In FILIP's maximum several words may take the same patch. Does it matter that they may not?",
        ("05_bipartite_matching", "Three words, four patches", "by_brute_force"),
        ("clip+match", "clip+max"),
        gains("clip+match", "alignment", "recall@1", over="clip+max"), primary(("clip+match", "clip+max")),
    ),
    Claim(
        "Masked words help retrieval more with the image than without", OURS, "our reading",
        "The control predicts the same words without the image. Does retrieval gain from the image?",
        ("06_fused_mlm", "What the image says", "fusing(x, p, reference)"),
        ("clip+mlm", "clip+mlm-blind"),
        verdicts.masked, primary(("clip+mlm", "clip+mlm-blind")),
    ),
    Claim(
        "Accuracy does not grow in step with the text tower", LIGHTCLIP, "abstract",
        "Accuracy does not increase correspondingly with the text tower's parameters.",
        ("07_lightclip", "Appendix: or simply a deeper text tower?", "depths = ["),
        ("clip, depth 2", "clip, depth 8", "clip, depth 12"),
        verdicts.depths, untested,
        differs="ours all had the same few steps and the same learning rate",
    ),
    Claim(
        "Nothing is added at inference", LIGHTCLIP, "abstract",
        "No additional computational cost during inference.",
        ("07_lightclip", "What does inference cost?", "operations(exported) == operations(plain)"),
        ("lightclip", "clip"),
        verdicts.inference, lambda evidence: "supported",
        number="no additional cost",
        tests=(
            "losses/test_masked_lm.py::test_the_contrastive_path_is_the_same_bits_with_and_without_fusion",
            "train/test_recipes.py::test_only_these_objectives_add_modules_of_their_own",
        ),
    ),
    Claim(
        "CLIP-PING is above CLIP (verdict: in nDCG@10)", PING, "abstract",
        "Gains over CLIP in zero-shot classification and in retrieval both ways.",
        ("09_clip_ping", "What do NN and XNN buy?", "arms_table("),
        ("clip-ping", "clip"),
        gains("clip-ping", "ndcg@10", ZERO, I2T, T2I), primary(("clip-ping", "clip")),
        number=f"zero-shot {PAPER[ZERO]:+}, image→text {PAPER[I2T]:+}, text→image {PAPER[T2I]:+}; that these are points, and "
        "recall@1, is our assumption",
        differs=SCALE,
    ),
    Claim(
        "Neighbours add something to plain distillation", OURS, "our reading",
        "With every pair as its own neighbour, the same terms distil the frozen encoders, without neighbours.",
        ("10_what_neighbours_buy", "The board", "arms_table("),
        ("clip-ping", "clip+distil", "clip-ping+distil"),
        both(
            gains("clip-ping", "ndcg@10", "recall@1", "recall@1_gallery", "foils", over="clip+distil"),
            gains("clip-ping+distil", "ndcg@10", "recall@1_gallery", over="clip+distil"),
        ),
        primary(("clip-ping", "clip+distil"), ("clip-ping+distil", "clip+distil")),
    ),
    Claim(
        "Minimal overhead", PING, "abstract",
        "Minimal computational overhead. Our reading: a tenth of `clip`'s time, for the steps and for the banks.",
        ("09_clip_ping", "What does it cost?", "times one of clip"),
        ("clip-ping", "clip"),
        verdicts.overhead, verdicts.cheap,
        tests=(
            "teachers/test_teacher.py::test_opening_a_guide_again_neither_encodes_nor_searches",
            "benchmarks/test_benchmarks.py::test_every_recipe_has_its_race",
        ),
    ),
    Claim(
        "Lower demand for data", PING, "abstract",
        "Lower data demands. Our reading: with a quarter of the pairs, it reaches what CLIP reaches with all of them.",
        ("09_clip_ping", "What do NN and XNN buy?", "4k pairs"),
        tuple(f"{recipe}{size}" for recipe in ("clip-ping", "clip+distil", "clip") for size in ("", ", 4k pairs", ", 64k pairs")),
        verdicts.demand, untested,
        differs="the frozen encoders have seen millions of pictures and sentences; that demand is met elsewhere",
    ),
    Claim(
        "Linear evaluation", PING, "abstract",
        "Strong transfer under linear evaluation.",
        ("09_clip_ping", "What do NN and XNN buy?", "probe_concept"),
        ("clip-ping", "clip"),
        verdicts.probed, untested,
        differs="theirs probes other data sets; ours unseen objects and an unseen drawing style, of the same kind of picture",
        tests=("eval/test_metrics.py::test_who_sees_the_concept_is_probed_to_know_it_and_of_known_ones_the_category",),
    ),
    Claim(
        "Active teachers bring more", PING, "secondary",
        "Additional benefits of A-CLIP-PING.",
        ("09_clip_ping", "A-CLIP-PING: teachers that look at what the model sees", 'training_of("a-clip-ping")'),
        ("a-clip-ping", "clip-ping", "clip"),
        verdicts.live, untested,
        differs="the view and the queue are ours: no run tells what of the difference the live teacher makes",
    ),
    Claim(
        "Both papers at once", OURS, "our reading",
        "LightCLIP's three levels and CLIP-PING's neighbours in one recipe: neither paper trains it.",
        ("14_capstone", "What do recipes buy?", "lightclip-ping"),
        ("lightclip-ping", "lightclip", "clip-ping", "lightclip+distil"),
        both(*(
            gains("lightclip-ping", "recall@1", "ndcg@10", over=arm) for arm in ("lightclip", "clip-ping", "lightclip+distil")
        )),
        untested,
    ),
)
"""What is claimed, and what the plan's arms say of it, in the order of the course."""
