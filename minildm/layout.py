"""What lies where in a folder of diffusers: weights in one file or several, and a tokenizer (chapter 21)."""

from pathlib import Path

from minildm.files import linked, read_json
from minildm.tensors import Tensors
from minildm.tokenizer import END, Tokenizer

PARTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}  # and their files
PICKLES = (".bin", ".ckpt", ".pt", ".pth")


def weights_of(folder: Path, stem: str) -> Tensors:
    """The tensors of one part: of its safetensors file, or of all that an index names; full precision if there are two.

    Raises:
        ValueError: none, pickled ones only, an index that names what is not there, or a broken file.
    """
    for variant in ("", ".fp16"):
        if (folder / f"{stem}{variant}.safetensors").exists():
            return Tensors(linked(folder / f"{stem}{variant}.safetensors"))
        if (folder / f"{stem}.safetensors.index{variant}.json").exists():
            return shards(folder / f"{stem}.safetensors.index{variant}.json")
    pickled = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLES)
    if pickled:
        raise ValueError(
            f"{folder / pickled[0]} is a pickle, which can run any code when it is opened: get {stem}.safetensors of the same "
            "model, or have its publisher convert it"
        )
    raise ValueError(f"{folder} has no {stem}.safetensors: is the download complete?")


def shards(index: Path) -> Tensors:
    """The tensors of all files that an index names. Raises ValueError when they and the index do not agree."""
    files = read_json(linked(index)).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(file, str) and Path(file).name == file for file in files.values()):
        raise ValueError(f"{index} has no 'weight_map' from tensors to files beside it: restore it")
    tensors = Tensors(*(linked(index.with_name(file)) for file in sorted(set(files.values()))))
    for name in sorted(files.keys() ^ set(tensors)):
        raise ValueError(f"{index} and its files disagree about {name!r}: restore them")
    return tensors


def read_tokenizer(folder: Path) -> tuple[Tokenizer, int, int | None]:
    """The tokenizer of a folder; the token that it fills with, the end token unless it says another; how long its rows are.

    Older folders hold vocab.json, merges.txt and special_tokens_map.json; newer tools write one tokenizer.json.
    """
    if (folder / "vocab.json").exists() or not (folder / "tokenizer.json").exists():
        tokenizer = Tokenizer.read(linked(folder / "vocab.json"), linked(folder / "merges.txt"))
    else:
        tokenizer = from_one_file(folder / "tokenizer.json")
    names = ("tokenizer_config.json", "special_tokens_map.json")
    said, special = (read_json(linked(folder / name)) if (folder / name).exists() else {} for name in names)
    if "added_tokens_decoder" not in said:  # files of before 2023: the other one decides, as it does in transformers
        said |= special
    check_words(folder, said, tokenizer)
    word, longest = said.get("pad_token") or END, said.get("model_max_length")
    word = word.get("content") if isinstance(word, dict) else word
    if not isinstance(word, str) or word not in tokenizer.vocabulary:
        raise ValueError(f"{folder}: the padding {word!r} is no token of its vocabulary: restore its files")
    if longest is not None and not isinstance(longest, int | float):
        raise ValueError(f"{folder}: model_max_length={longest!r} is no number: restore tokenizer_config.json")
    return tokenizer, tokenizer.vocabulary[word], longest


def check_words(folder: Path, said: dict, tokenizer: Tokenizer) -> None:
    """Raise ValueError for a tokenizer that is not CLIP's, or has learned words beside its vocabulary."""
    kind, lower = said.get("tokenizer_class"), said.get("do_lower_case")
    if kind not in (None, "CLIPTokenizer", "CLIPTokenizerFast") or lower is False:
        raise ValueError(
            f"{folder} has tokenizer_class={kind!r} with do_lower_case={lower!r}: minildm has CLIP's only, in lower case"
        )
    try:
        words = {entry["content"]: int(number) for number, entry in (said.get("added_tokens_decoder") or {}).items()}
        if (folder / "tokenizer.json").exists():
            added = read_json(linked(folder / "tokenizer.json")).get("added_tokens") or []
            words |= {entry["content"]: int(entry["id"]) for entry in added}
        if (folder / "added_tokens.json").exists():
            words |= read_json(linked(folder / "added_tokens.json"))
        strange = [word for word, number in words.items() if tokenizer.vocabulary.get(word) != number]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: its added tokens cannot be read ({error!r}): restore its files") from None
    if strange:
        raise ValueError(
            f"{folder} has the added token {strange[0]!r} beside its vocabulary, which minildm cannot read: remove it"
        )


def from_one_file(path: Path) -> Tokenizer:
    """The vocabulary and the merges of a tokenizer.json. Raises ValueError when it holds another kind of tokenizer."""
    model = read_json(linked(path)).get("model")
    try:
        merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
        return Tokenizer.checked(merges, dict(model["vocab"]), path, path)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no byte-pair tokenizer ({error!r}): restore it") from None
