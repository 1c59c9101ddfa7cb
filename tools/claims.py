"""What the papers state, and what became of it here: the ledger behind docs/claims.md. Tests hold every name in it.

A figure is a function of the study's saved runs or of the bench (`verdicts`), worked out when the page is made; what a test shows
to be equal is said in words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import verdicts
from benchmarks.run import Bench
from verdicts import I2T, NDCG, PAPER, T2I, ZERO, above, beside_longer, judge, judge_part, levels, points

CLIP, LIGHTCLIP, PING = "CLIP (arXiv 2103.00020)", "LightCLIP (arXiv 2312.00674)", "CLIP-PING (arXiv 2412.03871)"


@dataclass(frozen=True)
class Claim:
    """A statement or an equation of a paper, and where it is here.

    paper: whose; "ours" where no paper states it. stated: what it says, in our words. reading: what the text at hand does not
    fix, so that we chose it; "" if nothing. functions: dotted names. tests: "file::test". cell: a notebook, a heading in it,
    and a piece of a code cell below that heading. measured: figures of this course. figure: the paper's; "" if none is
    at hand, which the page says. differs: why ours is another. judged: the verdict of the figures, where figures can judge.
    """

    title: str
    paper: str
    stated: str
    reading: str
    functions: tuple[str, ...]
    tests: tuple[str, ...]
    cell: tuple[str, str, str]
    measured: Callable[[Bench], str]
    figure: str = ""
    differs: str = ""
    judged: Callable[[Bench], str] = lambda bench: "built and tested"


SCENES = "ours are drawn scenes and towers of 1.5 million parameters: other pictures and other tests than the paper's"
SCALE = (
    "theirs is a ViT-XS on 3 million photos of the web, asked about ImageNet and Flickr30K; ours are towers of 1.5 million "
    "parameters on 16,384 drawn scenes"
)

CLAIMS = (
    Claim(
        "The contrast of a batch", CLIP,
        "Images and captions of a batch are classified among each other, both ways, by scaled cosines; the scale is learned and "
        "never exceeds 100 (section 2.3).",
        "",
        ("lcl.losses.contrastive.info_nce", "lcl.models.clip.Clip.logit_scale"),
        (
            "losses/test_contrastive.py::test_value_and_gradients_are_those_of_open_clip",
            "losses/test_contrastive.py::test_a_query_is_asked_what_lightly_asks_when_the_others_lie_in_its_memory",
            "models/test_clip.py::test_the_logit_scale_never_exceeds_100",
        ),
        ("03_contrastive", "InfoNCE, from scratch", 'info_nce(v, t, scale)["info_nce"]'),
        verdicts.first_loss,
    ),
    Claim(
        "Labels are softened", LIGHTCLIP,
        "Pairs are not strictly one to one, so negatives get a share of the label, according to their similarity.",
        "y = (1 - α)·[i = j] + α·w with w a softmax over the other cosines; the sharpness of w; that no gradient passes.",
        ("lcl.losses.contrastive.soft_targets", "lcl.losses.contrastive.soft_info_nce"),
        (
            "losses/test_contrastive.py::test_softened_it_is_the_formula_summed_by_a_slow_double_loop",
            "losses/test_contrastive.py::test_without_softening_it_is_info_nce_to_the_bit_gradients_included",
            "losses/test_contrastive.py::test_a_temperature_without_bound_is_label_smoothing",
        ),
        ("04_soft_labels", "From scratch", "soft_targets(s, 0.3, 0.1)"),
        lambda bench: points(above("clip+soft", I2T, T2I, NDCG[0], ZERO)),
        differs=SCENES,
        judged=judge_part("clip+soft", I2T, T2I, NDCG[0], ZERO),
    ),
    Claim(
        "… progressively", LIGHTCLIP,
        "The share grows as training goes on.",
        "Half a cosine from 0 to α_max = 0.1. A stronger hand cost recall in trials.",
        ("lcl.losses.contrastive.ramp", "lcl.train.recipes.SoftConfig"),
        (
            "losses/test_contrastive.py::test_a_ramp_never_falls_and_ends_at_its_largest_value",
            "train/test_recipes.py::test_softening_begins_as_clip_to_the_bit_and_then_departs",
        ),
        ("04_soft_labels", "Watch the labels during training", "LabelScrubber("),
        lambda bench: points(above("clip+soft", T2I, NDCG[1])),
        judged=verdicts.not_alone,
    ),
    Claim(
        "Words and patches, matched one to one", LIGHTCLIP,
        "A bipartite matching of patches and words with minimal cost; relaxed.",
        "Cost 1 - cosine; patches may stay free, and a word may stay unmatched at a fixed cost.",
        ("lcl.losses.matching.exact", "lcl.losses.matching.sinkhorn"),
        (
            "losses/test_matching.py::test_ten_thousand_random_matchings_with_ties_cost_what_scipy_says",
            "losses/test_matching.py::test_a_tiny_matching_is_the_best_of_all_ways",
            "losses/test_matching.py::test_sinkhorn_comes_within_a_hundredth_of_the_optimum_and_keeps_its_margins",
        ),
        ("05_bipartite_matching", "Three words, four patches", "by_brute_force"),
        lambda bench: f"percent of words that find their object's patch, `clip+match`: {levels('clip+match', 'alignment')}; "
        f"{points(above('clip+match', 'alignment'))}",
        judged=verdicts.not_alone,
    ),
    Claim(
        "The objective of the token level", LIGHTCLIP,
        "Alignment of tokens is an objective of its own, beside that of whole images and captions.",
        "A pair's token similarity is the mean cosine of its matched words; it is contrasted with its 4 hardest negatives of "
        "the batch, never with an equal caption; its weight rises over the first half of the training.",
        ("lcl.losses.matching.matched_contrast", "lcl.losses.matching.token_similarity", "lcl.losses.matching.hardest"),
        (
            "losses/test_matching.py::test_the_objective_is_what_loops_and_scipy_make_of_it",
            "losses/test_matching.py::test_token_similarity_is_the_formula_worked_out_word_by_word",
        ),
        ("07_lightclip", "What breaks: the contrast of tokens at full weight from the first step", "without"),
        lambda bench: points(above("clip+match", I2T, T2I, NDCG[0], ZERO)),
        differs=SCENES,
        judged=judge_part("clip+match", I2T, T2I, NDCG[0], ZERO),
    ),
    Claim(
        "Masked words, guessed with the image", LIGHTCLIP,
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
        verdicts.masked,
        differs=SCENES,
        judged=verdicts.read,
    ),
    Claim(
        "Nothing is added at inference", LIGHTCLIP,
        "No additional computational cost during inference.",
        "",
        ("lcl.models.clip.save_model", "lcl.train.recipes.Recipe.make_extra"),
        (
            "losses/test_masked_lm.py::test_the_contrastive_path_is_the_same_bits_with_and_without_fusion",
            "train/test_recipes.py::test_only_these_objectives_add_modules_of_their_own",
        ),
        ("07_lightclip", "What does inference cost?", "operations(exported) == operations(plain)"),
        verdicts.inference, "no additional cost", "they agree",
        judged=lambda bench: "holds here, bitwise",
    ),
    Claim(
        "A larger text tower does not pay", LIGHTCLIP,
        "Accuracy does not increase correspondingly with the text tower's parameters.",
        "Depths 1 to 12 at equal steps and one learning rate.",
        ("lcl.config.LanguageConfig", "lcl.models.language.TextTransformer"),
        ("course/test_results.py::test_the_depth_sweep_falls_as_it_is_said",),
        ("07_lightclip", "Appendix: or simply a deeper text tower?", "depths = [1, 2, 4, 8, 12]"),
        verdicts.depths, "",
        "ours all had the same few steps and one learning rate; what deep ones reach with more, or with a rate of their own, was "
        "not measured",
        judged=verdicts.falls,
    ),
    Claim(
        "LightCLIP is above CLIP", LIGHTCLIP,
        "Higher performance on several downstream tasks.",
        "The weights of the three levels.",
        ("lcl.train.recipes.RECIPES", "lcl.train.loop.Training"),
        ("course/test_results.py::test_lightclip_is_above_clip_with_intervals_above_zero",),
        ("07_lightclip", "What does each level buy?", "comparison_table("),
        lambda bench: beside_longer("lightclip", I2T, T2I, *NDCG, ZERO, "alignment"),
        differs=SCENES,
        judged=judge("lightclip", I2T, T2I, *NDCG, ZERO, "alignment", longer=True),
    ),
    Claim(
        "Banks of frozen encoders", PING,
        "Features of arbitrary pre-trained unimodal encoders are extracted once.",
        "EfficientNet-Lite0 at 128 pixels and MiniLM-L6, length one, half precision on disk.",
        ("lcl.teachers.banks.build_bank", "lcl.teachers.encoders.ImageEncoder", "lcl.teachers.encoders.TextEncoder"),
        (
            "teachers/test_banks.py::test_a_bank_of_real_encoders_holds_their_features_and_has_a_place_of_its_own",
            "teachers/test_banks.py::test_a_build_killed_at_any_step_and_started_again_gives_the_same_bytes",
        ),
        ("08_neighbour_mining", "A bank", "bank"),
        lambda bench: f"both banks are built {bench.races['banks'].faster} times as fast as by a plain loop",
    ),
    Claim(
        "Nearest neighbours (NN)", PING,
        "Nearest neighbours are extra targets within a modality.",
        "An image against the projected image feature of its nearest image, a caption likewise; symmetric InfoNCE each; the "
        "model's own temperature; a weight that falls as (1 - p)².",
        ("lcl.losses.neighbours.nn_contrast", "lcl.teachers.search.nearest_neighbours", "lcl.losses.neighbours.Projections"),
        (
            "teachers/test_teacher.py::test_an_objective_is_its_formula_summed_term_by_term",
            "teachers/test_search.py::test_a_large_bank_has_the_neighbours_that_faiss_finds",
        ),
        ("09_clip_ping", "From scratch", 'nn_contrast(v, t, q(near), scale)["nn_contrast"]'),
        lambda bench: points(above("clip+nn", I2T, T2I, ZERO)),
        differs=SCENES,
        judged=judge_part("clip+nn", I2T, T2I, ZERO),
    ),
    Claim(
        "Cross nearest neighbours (XNN)", PING,
        "Cross nearest neighbours are extra targets across modalities.",
        "An image against the caption of its nearest image, a caption against the image of its nearest caption.",
        ("lcl.losses.neighbours.xnn_contrast",),
        (
            "teachers/test_teacher.py::test_an_objective_is_its_formula_summed_term_by_term",
            "teachers/test_teacher.py::test_a_guide_tells_the_banks_own_rows_of_the_nearest_image_and_the_nearest_caption",
        ),
        ("09_clip_ping", "From scratch", 'xnn_contrast(v, t, q(near), scale)["xnn_contrast"]'),
        lambda bench: points(above("clip+xnn", I2T, T2I, ZERO)),
        differs=SCENES,
        judged=judge_part("clip+xnn", I2T, T2I, ZERO),
    ),
    Claim(
        "CLIP-PING is above CLIP", PING,
        "Gains over CLIP in zero-shot classification and in retrieval both ways.",
        "The sum of the three, λ_nn = λ_xnn = 1 at first.",
        ("lcl.train.recipes.RECIPES", "lcl.teachers.teacher.BankTeacher"),
        ("course/test_results.py::test_clip_ping_gains_what_the_paper_gains_or_it_is_said",),
        ("09_clip_ping", "What do NN and XNN buy?", "comparison_table("),
        lambda bench: beside_longer("clip-ping", ZERO, I2T, T2I),
        f"zero-shot {PAPER[ZERO]:+}, image→text {PAPER[I2T]:+}, text→image {PAPER[T2I]:+}", SCALE,
        judged=judge("clip-ping", ZERO, I2T, T2I, longer=True),
    ),
    Claim(
        "Minimal overhead", PING,
        "Minimal computational overhead.",
        "",
        ("lcl.teachers.teacher.BankTeacher", "lcl.teachers.teacher.open_bank_teacher"),
        (
            "teachers/test_teacher.py::test_opening_a_guide_again_neither_encodes_nor_searches",
            "benchmarks/test_benchmarks.py::test_every_recipe_has_its_race",
        ),
        ("09_clip_ping", "What does it cost?", "times one of clip"),
        verdicts.overhead,
        judged=verdicts.cheap,
    ),
    Claim(
        "Lower demand for data", PING,
        "Lower data demands.",
        "4,096, 16,384 and 65,536 pairs at equal steps.",
        ("lcl.config.TrainConfig",),
        (
            "course/test_study.py::test_every_run_was_given_the_same_data_and_steps_as_clip_and_differs_in_what_its_name_says",
            "test_pages.py::test_how_a_gain_changes_with_more_pairs_is_of_equal_seeds",
        ),
        ("09_clip_ping", "What do NN and XNN buy?", 'tails = ("-4k"'),
        verdicts.demand,
        differs="the frozen encoders behind the banks have seen millions of pictures and sentences; that demand is met elsewhere",
        judged=verdicts.fewer,
    ),
    Claim(
        "Linear evaluation", PING,
        "Strong transfer under linear evaluation.",
        "Logistic regression on the frozen tower's pooled features, 8 pictures an object.",
        ("lcl.eval.probes.linear_probe",),
        ("eval/test_metrics.py::test_who_sees_the_concept_is_probed_to_know_it_and_of_known_ones_the_category",),
        ("09_clip_ping", "What do NN and XNN buy?", "probe_concept"),
        verdicts.probed,
        differs="theirs probes other data sets; ours unseen objects and an unseen drawing style, of the same kind of picture",
        judged=verdicts.transfer,
    ),
    Claim(
        "Active teachers (A-CLIP-PING)", PING,
        "A variant whose teachers run live.",
        "The image teacher encodes the augmented view; neighbours come from a queue; captions from their bank.",
        ("lcl.teachers.teacher.LiveTeacher", "lcl.models.vision.augment"),
        ("teachers/test_teacher.py::test_a_live_guide_is_a_queue_of_views_first_in_first_out_where_no_row_is_its_own_neighbour",),
        ("09_clip_ping", "A-CLIP-PING: teachers that look at what the model sees", 'training_of("a-clip-ping")'),
        verdicts.live, "",
        "the model sees views, too, and neighbours are sought among the last 4,096 rows alone: no run tells what of the "
        "difference to `clip-ping` the live teacher makes",
        judged=judge_part("a-clip-ping", ZERO, I2T, T2I),
    ),
    Claim(
        "Both papers at once", "ours",
        "LightCLIP's three levels and CLIP-PING's neighbours in one recipe: in neither paper.",
        "All of it.",
        ("lcl.train.recipes.RECIPES",),
        ("course/test_results.py::test_both_papers_at_once_are_no_worse_than_the_better_of_each",),
        ("14_capstone", "What do recipes buy?", "lightclip-ping"),
        verdicts.best,
        judged=verdicts.no_worse,
    ),
)
"""The ledger, in the order of the course."""

