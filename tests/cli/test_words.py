"""What the shell hands over is what the config holds, where a key takes text; Hydra's grammar elsewhere."""

import pytest

from ldm.cli.compose import compose
from ldm.cli.schema import TYPES, kind
from ldm.cli.words import Words
from ldm.utils.errors import UserError

TEXTS = [
    "a cat, a dog",
    "it's a cat",
    "(masterpiece:1.2), [best] quality",
    '"quoted" cat',
    "emoji 🎉, don\u2019t",
    "a = b",
    "<lora:x:0.8>",
    "two\nlines\r\n",
    "${HOME} $HOME ${",
    "{a|b} cat",
    "~tilde",
    "+plus",
    "trailing  ",
    " C:\\new\\",
    "123",
    "1e3",
    "true",
    "007",
    "[cat] sitting",
    "choice(a,b)",
    "'single'",
    "%;#&!*?",
]
REQUIRED = {"convert": ["input=a", "output=b"], "ema": ["run=a", "sigma_rel=0.1", "output=b"]}


def overrides(*words, command="sample", sweep=False):
    return Words(command, words, None, sweep).as_overrides()


def texts_of(command):
    return [key for key, a in TYPES[command].items() if kind(a).text and "kind" not in key]


@pytest.mark.parametrize("command", sorted(TYPES))
def test_every_text_key_of_every_command_takes_text_character_by_character(command):
    modes = ["mode=inpaint", "image=x", "mask=x"] if command == "sample" else []
    keys = texts_of(command)
    for start in range(0, len(TEXTS), 11):
        values = {key: TEXTS[(start + i) % len(TEXTS)] for i, key in enumerate(keys)}
        words = [*modes, *REQUIRED.get(command, ()), *(f"{key}={value}" for key, value in values.items())]
        config = compose(command, words)
        for key, value in values.items():
            node, _, name = key.rpartition(".")
            assert (config[node] if node else config)[name] == value


def test_an_empty_text_is_a_text():
    assert compose("sample", ["prompt=", "negative_prompt="])["prompt"] == ""


@pytest.mark.parametrize(
    ("command", "words", "keys", "value"),
    [
        ("train", ["data=imagefolder", "data.root={}"], ("data", "root"), "my photos, it's 1e3"),
        ("train", ["data=laion", "data.shards={}"], ("data", "shards"), "/d, x/{00000..00041}.tar"),
        ("train", ["callbacks.checkpoint.folder={}"], ("callbacks", "checkpoint", "folder"), "1e3"),
        ("train", ["logger=wandb", "logger.wandb.name={}"], ("logger", "wandb", "name"), "a = b, ${x}"),
        ("data", ["data=imagefolder", "++data.root={}"], ("data", "root"), "007"),
        ("plan", ["experiment=sd15", "data.root={}"], ("data", "root"), "[old]"),
    ],
)
def test_the_annotations_of_a_node_decide_below_it(command, words, keys, value):
    found = compose(command, [word.replace("{}", value) if word.endswith("{}") else word for word in words])
    for key in keys:
        found = found[key]
    assert found == value


def test_text_of_a_class_of_the_users_is_text_as_well(tmp_path):
    (tmp_path / "labelled.py").write_text(
        "class Thing:\n    def __init__(self, label: str, size: int = 1): ...\n"
    )
    (tmp_path / "optimizer").mkdir()
    option = "_target_: labelled.Thing\nlabel: a\nsize: 1\n"
    (tmp_path / "optimizer" / "mine.yaml").write_text(option)
    words = ["optimizer=mine", "optimizer.label=it's a, b", "optimizer.size=7"]
    found = compose("train", words, tmp_path)["optimizer"]
    assert (found["label"], found["size"]) == ("it's a, b", 7)


def test_lists_of_texts_keep_their_characters():
    words = ["prompt=[it's a cat, 'a, b', 1e3]", "negative_prompt=[${x}, null, 🎉]"]
    config = compose("sample", [*words, "lora=[a b.safetensors,~/c]", "lora_scale=[0.8,0.5]"])
    assert config["prompt"] == ["it's a cat", "a, b", "1e3"]
    assert config["negative_prompt"] == ["${x}", None, "🎉"]
    assert (config["lora"], config["lora_scale"]) == (["a b.safetensors", "~/c"], [0.8, 0.5])
    assert compose("train", ["prompts=[it's red, blue (dark)]"])["prompts"] == ["it's red", "blue (dark)"]
    assert overrides("prompts=4", command="train") == ["prompts=4"]


def test_null_is_none_and_what_is_no_text_keeps_hydras_grammar():
    config = compose("sample", ["prompt=null", "seed=[1,2]", "guidance_scale=3", "ema=false"])
    found = [config[name] for name in ("prompt", "seed", "guidance_scale", "ema")]
    assert found == [None, [1, 2], 3, False]
    assert compose("train", ["data.seed=${seed}", "seed=7"])["data"]["seed"] == 7


@pytest.mark.parametrize(
    ("word", "line"),
    [
        (
            "seed=0,1",
            "seed: must be one value, got '0,1': seed=[0,1] is a list, and -m runs one after the other",
        ),
        ("seed=[1,2", "seed: must be one value, got '[1,2': its brackets, quotes or commas are not those"),
        ("seed={a", "seed: must be one value, got '{a': its brackets"),
        (
            "scheduler=ddim,heun",
            "scheduler: must be an option, got 'ddim,heun' (ldm-sample --help scheduler); -m",
        ),
        ("scheduler=5", "scheduler: must be an option, got '5' (ldm-sample --help scheduler)"),
        ("scheduler=[1]", "scheduler: must be an option, got '[1]' (ldm-sample --help scheduler)"),
        ("scheduler=[ddim,[a]]", "scheduler: must be an option, got '[ddim,[a]]'"),
        ("scheduler=[null]", "scheduler: must be an option, got '[null]'"),
        ("scheduler=it's", 'scheduler: must be an option, got "it\'s"'),
    ],
)
def test_several_values_and_broken_lists_are_one_line(word, line):
    with pytest.raises(UserError) as caught:
        overrides(word)
    assert str(caught.value).startswith(line)


def test_a_value_that_no_grammar_reads_is_left_to_the_checks_of_types():
    assert compose("sample", ["seed=it's"])["seed"] == "it's"


def test_choices_of_options_and_settings_of_hydra_are_left_alone():
    words = [
        "scheduler=ddim",
        "hydra.run.dir=${paths.runs}/x",
        'hydra.run.dir="a b"',
        "~guidance",
        "hydra.x='1'",
    ]
    assert overrides(*words) == words
    assert overrides("hydra.run.dir=a, b's") == [r"hydra.run.dir='a, b\'s'"]


def test_in_a_sweep_hydras_grammar_holds():
    words = ["prompt=a cat,a dog", "seed=0,1", "prompt='a, b'"]
    assert overrides(*words, sweep=True) == words
    with pytest.raises(UserError) as caught:
        overrides("prompt=it's", sweep=True)
    line = "prompt: cannot be read in the grammar of sweeps (-m), got \"it's\"; write prompt=\"'it\\'s'\""
    assert str(caught.value) == line


def test_a_word_of_a_job_is_typed_with_the_value_that_the_job_has():
    words = Words("train", [], None, sweep=True)
    job = {"name": "it's ${x}", "prompts": ["a, b", "c"], "seed": 1, "data": {"root": "a b"}}
    assert words.as_typed("name='it\\'s'", job) == "name=it's ${x}"
    assert words.as_typed("prompts=['a, b',c]", job) == 'prompts=["a, b","c"]'
    assert words.as_typed("seed=1", job) == "seed=1"
    assert words.as_typed("~logger", job) == "~logger"
