"""Book order is import order; the book does not know the engine; nothing hides the subject or runs stored code."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import minildm

PACKAGE = Path(minildm.__file__).parent
BOOK = (
    "information gaussian families elbo vae hvae schedule posterior objectives attention unet ddpm samplers conditioning "
    "guidance tokenizer text clip rate quantise autoencoder perception latent ldm conditions editing cascade "
    "sizes fields foreign layout names interop flow dit"
).split()
INSTRUMENTS = ["ema", "files", "metrics", "muon", "tensors"]
TORCH_FREE = ["minildm/config.py", "minildm/engine/presets.py"]
FORBIDDEN = {"einops", "lightning", "pytorch_lightning", "torchvision", "diffusers", "transformers", "accelerate"}
UNSAFE = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}

FILES = {path.relative_to(PACKAGE.parent).as_posix(): ast.parse(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")}
TOP = [Path(name).stem for name in FILES if Path(name).parent.name == "minildm"]


def imports(tree: ast.AST, package: str = "minildm") -> set[str]:
    """Every module that is imported anywhere in a file, by its full name; for `from a import b` both a and a.b."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def own_modules(tree: ast.AST) -> set[str]:
    """The modules of minildm (not of its engine) that a file imports, by their short names."""
    short = {name.removeprefix("minildm.") for name in imports(tree) if name.startswith("minildm.")}
    return {name.split(".")[0] for name in short} & {*TOP, "engine", *BOOK}


def test_every_module_has_its_place():
    assert set(TOP) <= {*BOOK, *INSTRUMENTS, "config", "__init__", "__main__"}
    assert {"gaussian", "schedule", "ldm", "config", "ema", "files", "metrics"} <= set(TOP)


@pytest.mark.parametrize("name", [name for name in BOOK if name in TOP])
def test_a_chapter_imports_only_earlier_chapters(name):
    earlier = {*BOOK[: BOOK.index(name)], *INSTRUMENTS, "config"}
    assert own_modules(FILES[f"minildm/{name}.py"]) <= earlier


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_an_instrument_imports_no_chapter(name):
    assert own_modules(FILES[f"minildm/{name}.py"]) <= {"config", *INSTRUMENTS}


@pytest.mark.parametrize("name", ["config", "__init__"])
def test_what_comes_before_the_book_imports_nothing_of_it(name):
    assert own_modules(FILES[f"minildm/{name}.py"]) == set()


def test_the_reader_of_imports_sees_them_all():
    """The other tests would pass in silence if this one's function found nothing."""
    source = "import a.b\nfrom c import d\ndef f():\n    from . import e\n    from .g import h\nimport minildm.ldm as m\n"
    assert imports(ast.parse(source)) >= {"a.b", "c", "c.d", "minildm", "minildm.e", "minildm.g", "minildm.ldm"}
    assert own_modules(ast.parse("from minildm import ldm\nfrom minildm.engine.data import Data")) == {"ldm", "engine"}
    assert own_modules(FILES["minildm/ldm.py"]) >= {"unet", "text", "autoencoder", "schedule", "config"}


@pytest.mark.parametrize("name", TORCH_FREE)
def test_configurations_import_no_torch(name):
    third_party = {module.split(".")[0] for module in imports(FILES[name])} - {"minildm"} - sys.stdlib_module_names
    assert third_party == set()


def test_configurations_are_read_without_torch():
    code = (
        "import sys, minildm.config, minildm.engine.presets;"
        "heavy = {'torch', 'numpy', 'datasets', 'matplotlib', 'PIL'} & set(sys.modules); sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", FILES)
def test_no_dependency_hides_the_subject(name):
    assert not {module.split(".")[0] for module in imports(FILES[name])} & FORBIDDEN


def unsafe_calls(tree: ast.AST) -> list[str]:
    """Calls that run or unpickle what a file holds. `module.eval()` is another thing and allowed."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in {"eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec"}:
            found.append(name)
        if name.endswith("torch.load") or name in {"torch.save", "torch.jit.load", "torch.hub.load", "importlib.import_module"}:
            found.append(name)
        if name.startswith(("os.system", "os.popen", "os.exec", "os.spawn", "os.posix_spawn", "subprocess.", "yaml.load")):
            found.append(name)
        loads_objects = any(
            k.arg == "allow_pickle" and not (isinstance(k.value, ast.Constant) and k.value.value is False) for k in node.keywords
        )
        if loads_objects or any(k.arg == "trust_remote_code" for k in node.keywords):
            found.append(name)
    return found


@pytest.mark.parametrize("name", FILES)
def test_nothing_stored_is_run(name):
    assert not {module.split(".")[0] for module in imports(FILES[name])} & UNSAFE
    assert not {"torch.load", "torch.save"} & imports(FILES[name])
    assert unsafe_calls(FILES[name]) == []


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "exec(x)",
        "torch.load(p)",
        "f(p, trust_remote_code=True)",
        "np.load(p, allow_pickle=True)",
        "torch.save(a, b)",
        "importlib.import_module(name)",
        "os.system(command)",
        "subprocess.run(command)",
        "yaml.load(text)",
    ],
)
def test_the_search_for_unsafe_calls_finds_them(source):
    assert unsafe_calls(ast.parse(source))
    assert not unsafe_calls(ast.parse("model.eval(); re.compile('a'); np.load(p, allow_pickle=False)"))


@pytest.mark.parametrize("name", [f"minildm/{name}.py" for name in [*BOOK, *INSTRUMENTS, "config"] if name in TOP])
def test_a_book_module_is_small_and_says_what_it_is(name):
    """One idea in an evening's reading: a docstring, and not much more than 250 lines."""
    assert ast.get_docstring(FILES[name])
    assert len((PACKAGE.parent / name).read_text("utf-8").splitlines()) <= 250
