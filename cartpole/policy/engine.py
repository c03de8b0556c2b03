"""Making a verified engine for a policy."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from cartpole.policy.contract import Engine, Policy
from cartpole.policy.loading import BadPolicy, first_line
from cartpole.policy.perceptron import NotPerceptron, read_perceptron
from cartpole.policy.torchscript import ModuleEngine, TorchScriptEngine, has_branches
from cartpole.policy.value_head import make_value_head
from cartpole.policy.verify import is_same_together, verify, verify_repeatable

logger = logging.getLogger("cartpole")


def set_threads(intra_op: int) -> None:
    """Set PyTorch's thread counts.

    Call it before PyTorch's first operation; after it the inter-op pool keeps its size.
    """
    torch.set_num_threads(intra_op)
    with suppress(RuntimeError):  # too late for the inter-op pool, which only idles
        torch.set_num_interop_threads(1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run PyTorch's operations in the calling thread alone inside this block.

    Threads that one of them starts would be missing in a later fork, whose own would wait for them.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def make_engine(policy: Policy, name: str = "torchscript") -> Engine:
    """Make an engine and verify it against the policy's module.

    Args:
        policy: what the engine runs.
        name: "torchscript", "native", or "auto": native if possible, else TorchScript.

    Raises:
        BadPolicy: the native engine is not available for this policy, which the text explains;
            or the module's answers are not repeatable.
    """
    engine = _make_engine(policy, name)
    engine.packed_values = make_value_head(policy)
    return engine


def _make_engine(policy: Policy, name: str) -> Engine:
    if name == "torchscript":
        return _torchscript_engine(policy)
    try:
        engine = _native_engine(policy)
    except BadPolicy as error:
        if name == "native":
            raise
        logger.info("engine auto: torchscript, because native is not available: %s", error)
        return _torchscript_engine(policy)
    if name == "auto":
        logger.info("engine auto: native, verified against TorchScript")
    return engine


def _torchscript_engine(policy: Policy) -> Engine:
    """The traced perceptron; the module's own forward for other policies."""
    try:
        network = read_perceptron(policy)
        engine = TorchScriptEngine(policy, network)
        verify(engine, policy, network)
    except Exception as error:  # NotPerceptron, BadPolicy, PyTorch's errors about odd weights
        logger.info("model %s: using the module's own forward: %s", policy.path, first_line(error))
        return _module_engine(policy)
    return engine


def _module_engine(policy: Policy) -> Engine:
    """The module's own forward, in one call for a batch only if that changes no answer."""
    engine = ModuleEngine(policy)
    alone = verify_repeatable(engine, policy)
    if has_branches(policy.module):
        return engine
    try:
        together = ModuleEngine(policy, together=True)
        return together if is_same_together(together, alone) else engine
    except Exception:  # the module raises for some observations
        return engine


def _native_engine(policy: Policy) -> Engine:
    try:
        from cartpole.policy.native import NativeEngine  # imports numba, an extra

        network = read_perceptron(policy)
        engine = NativeEngine(policy, network)
        verify(engine, policy, network)
        return engine
    except BadPolicy:
        raise
    except ImportError as error:
        reason = f"--engine native needs the extra cartpole[native] ({first_line(error)})"
    except NotPerceptron as error:
        reason = f"model {policy.path}: --engine native can't compile it: {error}"
    except Exception as error:  # of numba, LLVM or the system
        reason = f"model {policy.path}: --engine native fails: {first_line(error)}"
    raise BadPolicy(reason)
