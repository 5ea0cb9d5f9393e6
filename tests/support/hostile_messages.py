"""Messages that were made to break a reader, or to be executed by one."""

import base64
import io
import json
import pickle
from collections.abc import Iterator

import numpy as np

DEEP = 10_000

# What picklescan, fickling and the write-ups that they cite list as ways from a name to a command.
_NAMES = """
os.system posix.system nt.system os.popen os.execv os.spawnl os.remove os.putenv os._wrap_close
subprocess.Popen subprocess.call subprocess.run subprocess.check_output subprocess.getoutput
builtins.eval builtins.exec builtins.compile builtins.__import__ builtins.open builtins.getattr
builtins.setattr builtins.breakpoint builtins.input builtins.globals builtins.type builtins.map
__builtin__.eval __builtin__.file __main__.main sys.exit sys.modules sys.settrace
pty.spawn commands.getoutput platform.popen asyncio.create_subprocess_shell
asyncio.unix_events._UnixSubprocessTransport._start multiprocessing.util.spawnv_passfds
runpy.run_path runpy._run_code importlib.import_module importlib.reload pkgutil.resolve_name imp.load_source
code.interact code.InteractiveInterpreter codeop.compile_command pdb.run bdb.Bdb.run profile.run
cProfile.run trace.Trace timeit.timeit timeit.repeat doctest.debug_script
test.support.script_helper.assert_python_ok
ctypes.CDLL ctypes.util.find_library _ctypes.dlopen cffi.FFI types.FunctionType types.CodeType
marshal.loads pickle.loads _pickle.loads cPickle.loads dill.loads joblib.load shelve.open jsonpickle.decode
yaml.unsafe_load torch.load torch.hub.load torch.jit.load torch.utils._config_module.load_config
torch.distributed.rpc.rpc_sync torch._dynamo.guards.GuardBuilder.get numpy.load numpy.fromfile numpy.memmap
numpy.core.multiarray.fromfile numpy.testing._private.utils.runstring numpy.f2py.crackfortran.myeval
numpy.lib.npyio.NpzFile numpy.ctypeslib.load_library numpy.distutils.exec_command pandas.read_pickle
functools.partial functools.reduce operator.attrgetter operator.methodcaller operator.itemgetter
itertools.starmap lib2to3.pgen2.grammar.Grammar.loadPickle logging.config.fileConfig logging.FileHandler
shutil.rmtree shutil.copyfile pathlib.Path.unlink tempfile.mkstemp socket.socket socket.create_connection
http.client.HTTPSConnection urllib.request.urlopen requests.get httpx.get smtplib.SMTP ftplib.FTP
webbrowser.open venv.create ensurepip.bootstrap pip.main idlelib.run.Executive pydoc.pipepager
distutils.file_util.write_file zipimport.zipimporter sqlite3.connect nturl2path.url2pathname
"""
CALLED = _NAMES.split()


def nested_lists() -> bytes:
    return b"[" * DEEP + b"]" * DEEP


def nested_objects(name: str) -> bytes:
    return (f'{{"{name}":'.encode()) * DEEP + b"1" + b"}" * DEEP


def original(name: str, value: object) -> bytes:
    """A request in the original's wire format: a JSON string that holds jsonpickle."""
    return json.dumps(json.dumps({name: value})).encode()


def bytes_of(content: bytes) -> dict[str, str]:
    """Encode bytes as jsonpickle does."""
    return {"py/b64": base64.b64encode(content).decode()}


def gadgets(command: str) -> Iterator[object]:
    """jsonpickle values that would run a command where they are decoded, or where a pickle in them is."""
    for called in CALLED:
        yield from map(bytes_of, _pickles(called, command))
        arguments = {"py/tuple": [command]}
        yield {"py/reduce": [{"py/function": called}, arguments]}
        yield {"py/reduce": [{"py/type": called}, arguments, {"command": command}]}
        yield {"py/object": called, "py/newargs": arguments, "args": [command]}
        yield {"py/object": called, "py/newargsex": [arguments, {}]}
    for tag in (
        "py/repr",
        "py/mod",
        "py/ref",
        "py/set",
        "py/iterator",
        "py/property",
        "py/state",
        "py/bytes",
    ):
        yield {tag: f"os/os.system({command!r})"}


def _pickles(dotted: str, command: str) -> Iterator[bytes]:
    """The call in each way in which opcodes can ask for one."""
    module, _, name = dotted.rpartition(".")
    text = f"S{command!r}\n".encode()
    called = f"c{module}\n{name}\n".encode()
    yield called + b"(" + text + b"tR."
    yield b"(" + text + f"i{module}\n{name}\n.".encode()
    yield b"(" + called + text + b"o."
    yield b"\x80\x02" + called + text + b"\x85\x81."
    yield called + b"(" + text + b"tb."
    short = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name))
    yield b"\x80\x04" + short + b"\x93(" + text + b"tR."
    yield b"\x80\x04" + short + b"\x93)(" + text + b"d\x92."
    # An array that is one, with the call as its state.
    yield b"\x80\x02cnumpy\nndarray\n" + called + text + b"\x85Rb."


def not_finite_or_no_numbers() -> list[str]:
    """JSON of what may stand where an embedding's number belongs."""
    return [
        "NaN",
        "-NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "-1e999",
        '"1"',
        '"NaN"',
        "true",
        "null",
        "[1]",
        "{}",
    ]


def pickled_not_finite() -> Iterator[bytes]:
    for value in (np.nan, -np.nan, np.inf, -np.inf):
        for dtype in ("f2", "<f4", ">f4", "f8"):
            array = np.ones(512, dtype)
            array[7] = value
            yield from (pickle.dumps(array, protocol) for protocol in (0, 2, 5))
            file = io.BytesIO()
            np.save(file, array)
            yield file.getvalue()
    yield pickle.dumps(np.full(512, 1e300))  # finite, but not in single precision
