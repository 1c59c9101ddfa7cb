"""Captions are true: what they say is checked against boxes and pixels, never against the code that wrote them."""

import random
import re
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import inflect
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import english
from lcl.config import LclError
from lcl.data.drawn import captions
from lcl.data.drawn.captions import Mention, article, compose, holds, next_to, plural
from lcl.data.drawn.colours import COLOURS, colour_name
from lcl.data.drawn.pictures import Concept
from lcl.data.scenes import SPLITS, Scene, SceneObject
from lcl.storage import read_json


def pytest_generate_tests(metafunc):
    """What is asked of a world is asked of both versions."""
    if "world" in metafunc.fixturenames:
        metafunc.parametrize("world", [1, 2], indirect=True, scope="session")


# --- relations between boxes

sides = st.tuples(st.integers(0, 60), st.integers(1, 30)).map(lambda side: (side[0], side[0] + side[1]))
boxes = st.tuples(sides, sides).map(lambda box: (box[0][0], box[1][0], box[0][1], box[1][1]))
groups = st.lists(boxes, min_size=1, max_size=3)


def mirrored(group):
    return [(-right, top, -left, bottom) for left, top, right, bottom in group]


def turned(group):
    return [(top, left, bottom, right) for left, top, right, bottom in group]


@given(groups, groups)
def test_left_and_right_are_inverse_and_never_both_hold(a, b):
    for one, other in (("left of", "right of"), ("above", "below")):
        assert holds(one, a, b) == holds(other, b, a)
        assert not (holds(one, a, b) and holds(other, a, b))


@given(groups, groups)
def test_a_mirror_swaps_left_and_right_and_a_turn_swaps_left_and_above(a, b):
    assert holds("left of", a, b) == holds("right of", mirrored(a), mirrored(b))
    assert holds("above", a, b) == holds("above", mirrored(a), mirrored(b))
    assert holds("left of", a, b) == holds("above", turned(a), turned(b))


@given(boxes, boxes)
def test_left_means_apart_and_more_across_than_down(a, b):
    across = (b[0] + b[2]) / 2 - (a[0] + a[2]) / 2
    down = (b[1] + b[3]) / 2 - (a[1] + a[3]) / 2
    assert holds("left of", [a], [b]) == (a[2] <= b[0] and across >= abs(down))


@given(groups, groups)
def test_a_group_stands_where_all_of_it_stands(a, b):
    for relation in captions.RELATIONS:
        assert holds(relation, a, b) == all(holds(relation, [one], [other]) for one in a for other in b)


@given(boxes, boxes)
def test_next_to_is_mutual_and_never_above(a, b):
    assert next_to(a, b) == next_to(b, a) == next_to(*mirrored([a, b]))
    assume(a[3] <= b[1])
    assert not next_to(a, b)


@pytest.mark.parametrize(("gap", "near"), [(0, True), (10, True), (11, False), (20, False)])
def test_next_to_reaches_half_the_side_of_the_larger_box(gap, near):
    small, large = (0, 0, 8, 8), (8 + gap, 0, 28 + gap, 20)
    assert next_to(small, large) == next_to(large, small) == near


# --- words


@pytest.mark.parametrize(
    ("one", "many"),
    [("wolf", "wolves"), ("pair of jeans", "pairs of jeans"), ("box of french fries", "boxes of french fries")]
    + [("cherry blossom", "cherry blossoms"), ("mouse", "mice"), ("computer mouse", "computer mice"), ("bus", "buses")]
    + [("snowman", "snowmen"), ("goose", "geese"), ("knife", "knives"), ("nest with eggs", "nests with eggs")]
    + [("burrito", "burritos"), ("kimono", "kimonos"), ("leaf fluttering in wind", "leaves fluttering in wind")]
    + [("hammer and wrench", "hammers and wrenches"), ("fork and knife", "forks and knives"), ("t-rex", "t-rexes")]
    + [("plane taking off", "planes taking off"), ("set of cutlery", "sets of cutlery"), ("six-sided die", "six-sided dice")]
    + [("cup with a straw", "cups with straws"), ("city at dusk", "cities at dusk"), ("spool of thread", "spools of thread")],
)
def test_plurals(one, many):
    assert plural(one) == many


@pytest.mark.parametrize(
    ("phrase", "word"),
    [("hourglass", "an"), ("apple", "an"), ("red apple", "a"), ("orange car", "an"), ("unicorn", "a"), ("ewe", "a")]
    + [("x-ray", "an"), ("euro banknote", "a"), ("european castle", "a"), ("umbrella", "an"), ("house", "a")],
)
def test_articles(phrase, word):
    assert article(phrase) == word


def test_the_table_of_words_holds_what_the_rules_say_of_every_name():
    assert read_json(captions.ENGLISH) == english.english()


@given(st.sampled_from(sorted(read_json(captions.ENGLISH)["articles"])), st.sampled_from(english.names()))
def test_the_first_word_decides_on_the_article(first, name):
    phrase = f"{first} {name}"
    assert article(phrase) == inflect.engine().a(phrase).split()[0]


def test_captions_of_the_dictionary_need_no_rules(world, monkeypatch):
    for function in (article, plural, captions._rules):
        function.cache_clear()
    monkeypatch.setitem(sys.modules, "inflect", None)  # not installed
    assert all(world.scene("train", index).caption for index in range(200))
    with pytest.raises(LclError, match="inflect is not installed"):
        plural("wug")


def countable(world):
    return [name for c in world.pictures.concepts if c.counted for name in (c.name, *c.synonyms)]


def test_what_is_counted_has_a_name_in_the_singular(world):
    assert [name for name in countable(world) if re.search(r"ss$", plural(name)) and not name.endswith("ss")] == []


def test_two_names_never_share_a_plural_and_a_plural_is_no_name(world):
    plurals = [plural(name) for name in countable(world)]
    assert len(set(plurals)) == len(plurals)
    unchanged = {"moose", "american bison", "deer", "sheep", "fish", "tropical fish", "blowfish", "jellyfish"}
    assert set(plurals) & {name for c in world.pictures.concepts for name in (c.name, *c.synonyms)} <= unchanged


# --- what captions say, read back

DETERMINERS = {"a": 1, "an": 1, "some": 1, "": 1, "two": 2, "three": 3, "four": 4}
PHRASE = (
    r"(?:(?P<count>an?|some|two|three|four) )?"
    rf"(?:(?P<size>small|little|big|large) )?(?:(?P<colour>{'|'.join(COLOURS)}) )?"
)
RELATIONS = "(?:to the )?left of|(?:to the )?right of|above|over|below|under|next to"
BEFORE_FIRST = re.compile(rf"(?:(?:a picture of|an image of|a drawing of|a scene with) )?{PHRASE}")
BETWEEN = re.compile(rf"(?: (?P<relation>{RELATIONS})|,? with|,? and|,) {PHRASE}")
AFTER_LAST = re.compile(r"(?: (?:on|against) (?P<ground>[a-z ]+))?\.?")


@dataclass
class Said:
    """One naming: the things it is about, and what stands before the name."""

    scene: Scene
    objects: tuple[SceneObject, ...]
    name: str
    count: str
    size: str | None
    colour: str | None
    relation: str | None  # to the one named just before


def read(scene):
    """A caption's namings in order, and what it says of the ground. Fails where the caption is no such sentence."""
    text = scene.caption[0].lower() + scene.caption[1:]
    spans, said, at = sorted({obj.span for obj in scene.objects}), [], 0
    for start, end in spans:
        words = (BETWEEN if said else BEFORE_FIRST).fullmatch(text[at:start])
        assert words, f"{text[at:start]!r} in {scene.caption!r}"
        objects = tuple(obj for obj in scene.objects if obj.span == (start, end))
        words = words.groupdict() | {"count": words["count"] or ""}
        said.append(Said(scene, objects, text[start:end], **{"relation": None} | words))
        at = end
    tail = AFTER_LAST.fullmatch(text[at:])
    assert tail, f"{text[at:]!r} in {scene.caption!r}"
    return said, tail["ground"]


@pytest.fixture(scope="module")
def many(world):
    """Two thousand scenes, all splits, and what their captions say."""
    scenes = [world.scene(split, index) for split in SPLITS for index in range(400)]
    return [(scene, *read(scene)) for scene in scenes]


@pytest.fixture(scope="module")
def sayings(many):
    return [naming for _, said, _ in many for naming in said]


def test_every_span_holds_the_name_of_its_things(world, sayings):
    for naming in sayings:
        (number,) = {obj.concept for obj in naming.objects}
        concept = world.pictures.concepts[number]
        names = [concept.name, *concept.synonyms]
        assert naming.name in (names if len(naming.objects) == 1 else [plural(name) for name in names])


def test_every_concept_is_named_once(many):
    for scene, said, _ in many:
        assert len(said) == len(scene.concepts)


def test_number_words_count_what_is_there(world, sayings):
    uncounted = {"", "some"} if world.config.version == 1 else set()
    assert {naming.count for naming in sayings} >= {"a", "an", "two", "three"} | uncounted
    for naming in sayings:
        assert len(naming.objects) == DETERMINERS[naming.count]
        assert (naming.count in ("", "some")) == (not world.pictures.concepts[naming.objects[0].concept].counted)


def test_an_stands_before_a_vowel_that_is_spoken(many):
    spoken = re.compile(r"(?!uni|eu|ewe|one)[aeiou]|hourglass|x-ray")
    for scene, _, _ in many:
        for word, following in re.findall(r"\b(an?) (\S+)", scene.caption.lower()):
            assert (word == "an") == bool(spoken.match(following)), scene.caption


def test_relations_are_true_of_the_boxes(sayings):
    told = {"left": 0, "right": 0, "above": 0, "below": 0, "next": 0}
    for before, naming in zip(sayings, sayings[1:], strict=False):
        if naming.relation is None:
            continue
        words = {"over": "above", "under": "below"}.get(naming.relation, naming.relation).replace("to the ", "")
        word = words.split()[0]
        told[word] += 1
        for a in (obj.box for obj in before.objects):
            for b in (obj.box for obj in naming.objects):
                if word == "next":
                    gap, widest = max(a[0] - b[2], b[0] - a[2]), max(a[2] - a[0], b[2] - b[0], a[3] - a[1], b[3] - b[1])
                    assert gap <= widest / 2 and a[1] < b[3] and b[1] < a[3]
                else:
                    true = {"left": a[2] <= b[0], "right": b[2] <= a[0], "above": a[3] <= b[1], "below": b[3] <= a[1]}
                    assert true[word], naming.scene
    assert min(told.values()) >= 10


def test_sizes_are_true_of_the_boxes(world, sayings):
    sized = [naming for naming in sayings if naming.size]
    for naming in sized:
        (left, top, right, bottom) = naming.objects[0].box
        share = max(right - left, bottom - top) / world.config.size
        assert len(naming.objects) == 1
        assert share < 1 / 3 if naming.size in ("small", "little") else share > 1 / 2
    assert {naming.size for naming in sized} == {"small", "little", "big", "large"}


def test_colours_are_true_of_the_pixels(sample):
    checked = 0
    for scene, image, opacity in zip(sample.scenes, sample.images, sample.opacity, strict=True):
        for naming in read(scene)[0]:
            for obj in naming.objects if naming.colour else ():
                place = scene.objects.index(obj)
                seen = opacity[place] > 250
                for later in opacity[place + 1 :]:
                    seen &= later == 0
                if seen.sum() < 20:
                    continue
                counts = torch.bincount(colour_name(image[:, seen].T), minlength=len(COLOURS))
                if naming.colour != "black":
                    counts[list(COLOURS).index("black")] = 0  # outlines
                assert list(COLOURS)[counts.argmax()] == naming.colour, scene
                checked += 1
    assert checked >= 60


def test_the_ground_is_of_its_colour_and_said_to_be(sample):
    told = 0
    for scene, image, opacity in zip(sample.scenes, sample.images, sample.opacity, strict=True):
        bare = torch.stack(opacity).amax(0) == 0
        mean = image[:, bare].float().mean(1)
        assert list(COLOURS)[colour_name(mean)] == scene.background.colour, scene.background
        background = read(scene)[1]
        if background is not None:
            told += 1
            assert set(background.split()) & COLOURS.keys() == {scene.background.colour}
    assert told >= 60


def test_patterns_are_said_only_of_grounds_that_have_them(many):
    words = {"stripes": "strip", "checks": "check", "dots": "dot", "grain": r"grainy|rough", "gradient": "shaded"}
    for scene, _, background in many:
        for kind, word in words.items():
            if background and re.search(word, background):
                assert scene.background.kind == kind


def test_wording_varies(many):
    texts = [scene.caption for scene, _, _ in many]
    assert len(set(texts)) > 0.9 * len(texts)
    for part in ("A picture of ", "a scene with ", " left of ", " to the right of ", " under ", " next to ", ", with "):
        assert any(part in text for text in texts), part
    for share in (
        sum(text.endswith(".") for text in texts) / len(texts),
        sum(text[0].isupper() for text in texts) / len(texts),
        sum(background is not None for _, _, background in many) / len(texts),
    ):
        assert 0.1 < share < 0.6


def test_composing_draws_on_nothing_but_random(world):
    first, second = world.pictures.concepts[:2]
    mentions = [Mention(first, ((0, 0, 9, 9),), (None,)), Mention(second, ((30, 0, 60, 20),), ("red",))]
    for seed in range(30):
        only = SimpleNamespace(random=random.Random(seed).random)
        written = compose(only, mentions, "dots", "blue", 64)
        assert written == compose(random.Random(seed), mentions, "dots", "blue", 64)


KINDS = {"shaded": "gradient", "striped": "stripes", "checked": "checks", "dotted": "dots", "grainy": "grain", "rough": "grain"}
CANONICAL = {"to the left of": "left of", "to the right of": "right of", "over": "above", "under": "below"}


def read_facts(world, scene) -> set:
    """The facts of a caption, read from its text and from where the names stand in it."""
    text = scene.caption.lower().rstrip(".")
    for (start, end), concept in sorted({obj.span: obj.concept for obj in scene.objects}.items(), reverse=True):
        text = f"{text[:start]}<{concept}>{text[end:]}"
    facts, adjectives = set(), "|".join(["small", "little", "big", "large", *COLOURS])

    def named(match: re.Match) -> str:
        words = [{"little": "small", "big": "large"}.get(word, word) for word in match[2].split()]
        facts.add((world.name(int(match[3])), {"two": 2, "three": 3}.get(match[1], 1), *words))
        return f"#{match[3]}"

    text = re.sub(rf"(?:\b(an?|some|two|three) )?((?:(?:{adjectives}) )*)<(\d+)>", named, text)
    relations = "to the left of|left of|to the right of|right of|above|over|below|under|next to"
    for first, words, second in re.findall(rf"#(\d+) ({relations}) #(\d+)", text):
        relation, ends = CANONICAL.get(words, words), [world.name(int(first)), world.name(int(second))]
        if relation in ("right of", "below"):
            relation, ends = {"right of": "left of", "below": "above"}[relation], ends[::-1]
        facts.add((relation, *(sorted(ends) if relation == "next to" else ends)))
    if background := re.search(r" (?:on|against) (.*)$", re.sub(r".*#\d+", "", text)):
        kinds = KINDS | {kind: kind for kind in ("stripes", "checks", "dots")}
        told = background[1].split()
        (colour,), kind = [word for word in told if word in COLOURS], {kinds[word] for word in told if word in kinds}
        facts.add(("background", colour, *kind))
    return facts


def test_the_facts_of_a_caption_are_those_that_its_text_states(world):
    scenes = [world.scene(split, index) for split in SPLITS for index in range(100)]
    assert [scene.facts for scene in scenes] == [read_facts(world, scene) for scene in scenes]
    assert {len(scene.facts) for scene in scenes} >= {1, 2, 3, 4, 5}
    kinds = {fact[0] for scene in scenes for fact in scene.facts}
    assert kinds >= {"left of", "above", "next to", "background"} and not kinds & {"right of", "below"}


def test_the_same_facts_in_other_words_are_the_same_facts():
    cat = Concept("cat", ("kitty",), "animals", True, ("grey",))
    dog = Concept("dog", (), "animals", True, ("brown",))
    mentions = [Mention(cat, ((0, 20, 9, 29),), ("grey",)), Mention(dog, ((40, 20, 60, 40),), ("brown",))]
    by_facts: dict[frozenset, set[str]] = {}
    for seed in range(3000):
        text, _, facts = compose(random.Random(seed), mentions, "solid", "red", 64)
        by_facts.setdefault(facts, set()).add(text)
    related = by_facts[frozenset({("cat", 1), ("dog", 1), ("left of", "cat", "dog")})]
    assert {"a cat left of a dog", "a dog to the right of a kitty"} <= related
    assert {"a cat and a dog", "a dog with a kitty"} <= by_facts[frozenset({("cat", 1), ("dog", 1)})]
    assert not any("left" in text or "grey" in text or "red" in text for text in by_facts[frozenset({("cat", 1), ("dog", 1)})])
    texts = [text for each in by_facts.values() for text in each]
    assert len(texts) == len(set(texts)), "no text states two sets of facts"
