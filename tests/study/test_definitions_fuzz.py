"""Random and mutated space and study files: each is read, or refused with a named error in one sentence."""

import functools
from importlib import metadata, resources

import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st

from se_search.errors import SeSearchError
from se_search.study.definitions import StudyDefinition
from se_search.study.files import load_space, load_study
from se_search.study.space_definition import SpaceDefinition

SHIPPED = tuple(
    (folder, file.read_bytes())
    for folder in ("search_spaces", "studies")
    for file in sorted(resources.files(f"se_search.{folder}").iterdir(), key=str)
    if file.name.endswith(".yaml")
)
WHOLE_STUDY = yaml.safe_dump(load_study("digits").model_dump(mode="json")).encode()
KEYS = sorted({*SpaceDefinition.keys_for({}), *StudyDefinition.model_fields, "epochs", "name", "options", "target"})
WORDS = ["stage", "block", "standard", "sigmoid", "tanh", "resnet18", "digits", "stages", "accuracy", "flops_overhead"]
# What a reader of YAML trips over: tags with the wrong kind of value, numbers of every notation, aliases, merging.
PIECES = [
    *(f"!!{tag} " for tag in ("int", "float", "bool", "null", "str", "binary", "timestamp", "set", "omap", "pairs")),
    *("!!python/object/apply:os.abort ", "!local ", "&a ", "*a", "<<: ", "? ", "- ", ": ", "[", "]", "{", "}", ", "),
    *(
        "'",
        '"',
        "|\n",
        ">-\n",
        "#",
        "%YAML 1.1\n",
        "---\n",
        "...\n",
        "\n",
        "  ",
        "\t",
        "~",
        "=",
        "\x00",
        "\x85",
        "\ufeff",
    ),
    *("2001-13-45", "2001-01-01t25:00:00Z", "1:60:1", "0x", "0b", "1__0", ".inf", ".nan", "1e999", "9" * 5000),
    *('"\\ud800"', '"\\x00"', '"\\U00110000"', "\U0001f600", "5%", "-1", "0", "yes"),
]


def keys_of(kind):
    return kind.keys_for({}) if kind is SpaceDefinition else kind.model_fields


def valid(kind):
    """Values that such a file may hold, right ones among them, as deep as wanted and deeper."""
    return st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.integers(0, 64)
        | st.floats()
        | st.text(max_size=8)
        | st.sampled_from([*WORDS, "5%"])
        | st.dates(),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from([*keys_of(kind), *KEYS]) | st.text(max_size=5), inner, max_size=5)
            | st.dictionaries(st.integers() | st.booleans() | st.none() | st.dates(), inner, max_size=2)
        ),
        max_leaves=12,
    )


def mappings(kind):
    keys = st.sampled_from(sorted(keys_of(kind))) | st.sampled_from(KEYS) | st.text(max_size=5)
    return st.dictionaries(keys, valid(kind), max_size=6)


@st.composite
def changed_files(draw):
    """A shipped file or a whole study with values replaced: near to right, so that it is read to its end."""
    _, text = draw(st.sampled_from([*SHIPPED, ("studies", WHOLE_STUDY)]))
    content = yaml.safe_load(text)
    for _ in range(draw(st.integers(1, 3))):
        place = content
        key = draw(st.sampled_from(sorted(place, key=repr)))
        while isinstance(place[key], dict) and place[key] and draw(st.booleans()):
            place = place[key]
            key = draw(st.sampled_from(sorted(place, key=repr)))
        place[key] = draw(valid(StudyDefinition))
    return yaml.safe_dump(content, allow_unicode=draw(st.booleans())).encode("utf-8", "surrogatepass")


@st.composite
def mutated_bytes(draw):
    """A shipped file with pieces put in, taken out or exchanged."""
    _, content = draw(st.sampled_from([*SHIPPED, ("studies", WHOLE_STUDY)]))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = start + draw(st.integers(0, 12))
        piece = draw(
            st.sampled_from(PIECES).map(lambda one: one.encode("utf-8", "surrogatepass")) | st.binary(max_size=4)
        )
        content = content[:start] + piece + content[end:]
    return content


FILES = st.one_of(
    changed_files(),
    mutated_bytes(),
    st.sampled_from([SpaceDefinition, StudyDefinition])
    .flatmap(mappings)
    .map(lambda content: yaml.safe_dump(content).encode("utf-8", "surrogatepass")),
    st.lists(st.sampled_from([*PIECES, *KEYS, *WORDS]), max_size=30).map(lambda pieces: "".join(pieces).encode()),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=60),
)


def assert_read_or_refused(file, content):
    """What is read can be written to a run folder and is the same when it is read again; anything else is one line."""
    file.write_bytes(content)
    for load in (load_space, load_study):
        try:
            definition = load(str(file))
        except SeSearchError as refusal:
            sentence = str(refusal)
            assert sentence
            assert sentence.isprintable()
            assert len(sentence) < 2100
            continue
        file.write_text(yaml.safe_dump(definition.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
        assert load(str(file)) == definition
        file.write_bytes(content)


@pytest.fixture(autouse=True, scope="module")
def _installed_packages_are_asked_once():
    # Looking for plugins takes many times as long as reading a file.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metadata, "entry_points", functools.cache(metadata.entry_points))
        yield


FUZZING = settings(
    database=None, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@settings(FUZZING, max_examples=300, derandomize=True)
@given(content=FILES)
def test_any_file_is_read_or_refused_in_one_sentence(tmp_path, content):
    assert_read_or_refused(tmp_path / "any.yaml", content)


@pytest.mark.slow
@settings(FUZZING, max_examples=10_000)
@given(content=FILES)
def test_ten_thousand_files_are_read_or_refused_in_one_sentence(tmp_path, content):
    assert_read_or_refused(tmp_path / "any.yaml", content)
