"""Groups of layers on a device, run with torch on the CPU: the results of numpy, few waits, and bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from lib_resize.linalg import device_decompose, device_norms
from lib_resize.linalg.arrays import NumpyArrays, TorchArrays
from lib_resize.linalg.casts import STORAGE, round_to, singles
from lib_resize.linalg.device_decompose import Solvers, decompose_on_device
from lib_resize.linalg.device_factors import FactorJob, rounded_factors
from lib_resize.linalg.device_norms import fits_device, norms_on_device, stacks_of
from lib_resize.linalg.device_subspace import PlacedMatrix, SubspaceJob, subspace_norms_on_device
from lib_resize.linalg.device_upload import Upload
from lib_resize.linalg.factor import Pair, Spectrum, Stored, decompose
from lib_resize.linalg.float32_precision import full_float32
from lib_resize.linalg.norms import frobenius_and_spectral_norm, subspace_norms
from lib_resize.linalg.solver_rates import CPU, DEVICE, SolverRates
from lib_resize.linalg.truncate import truncated
from tests.linalg.spectra import known, pair_of
from tests.linalg.test_norms import WEIGHTS

NUMPY = NumpyArrays()


class Fixed(SolverRates):
    """Solves in one place."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self._place = place

    def place(self, rank: int) -> str:
        return self._place

    def is_measured(self, rank: int) -> bool:
        return True


def limited(most_bytes: int) -> TorchArrays:
    arrays = TorchArrays("cpu")
    arrays.limit_memory(most_bytes)
    return arrays


def in_groups(
    pairs: Sequence[Pair], rates: SolverRates | None = None, arrays: TorchArrays | None = None
) -> dict[int, Spectrum | None]:
    with ThreadPoolExecutor(2) as pool:
        solvers = Solvers(pool, rates or SolverRates())
        found = [one for group in decompose_on_device(pairs, arrays or TorchArrays("cpu"), solvers) for one in group]
    assert sorted(i for i, _ in found) == list(range(len(pairs)))
    return dict(found)


def many(kind: str, count: int = 12) -> list[Pair]:
    """Pairs of two ranks and several shapes, in turn."""
    shapes = [(60, 50), (40, 90), (60, 50), (30, 30)]
    ranks = [8, 8, 5]
    return [
        pair_of(
            *known(*shapes[i % 4], np.geomspace(1, 1e-2, ranks[i % 3]), seed=i), kind, scale=(0.5, -2.0, 1.0)[i % 3]
        )
        for i in range(count)
    ]


# Decomposition ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [DEVICE, CPU])
@pytest.mark.parametrize("kind", [kind for kind in STORAGE if kind != "F8_E5M2"])
def test_groups_have_the_spectra_of_single_layers(kind: str, place: str) -> None:
    pairs = many(kind)
    found = in_groups(pairs, Fixed(place))
    for i, pair in enumerate(pairs):
        ours, (theirs,) = found[i], decompose([pair], NUMPY)
        assert ours is not None
        np.testing.assert_allclose(ours.s, theirs.s, rtol=1e-9)
        for one, other in ((ours.p, theirs.p), (ours.q, theirs.q)):
            assert one.dtype == np.float32
            np.testing.assert_allclose(np.abs(one), np.abs(other), atol=1e-5 * np.abs(other).max())
        np.testing.assert_allclose(ours.p @ ours.q, theirs.p @ theirs.q, atol=1e-5 * np.abs(theirs.p @ theirs.q).max())


@pytest.mark.parametrize("most", [1 << 14, 1 << 17, 1 << 28])
def test_small_groups_give_the_same(most: int) -> None:
    pairs = many("F16", 30)
    expected, found = in_groups(pairs, Fixed(DEVICE)), in_groups(pairs, Fixed(DEVICE), limited(most))
    left = [i for i, one in found.items() if one is None]
    for i, one in found.items():
        other = expected[i]
        if one is not None and other is not None:
            np.testing.assert_allclose(one.s, other.s, rtol=1e-12)
    assert (len(left) > 0) == (most == 1 << 14), "a layer that is too large is left to the CPU"


def bad_pairs() -> dict[str, Pair]:
    up, down = known(60, 50, np.geomspace(1, 0.1, 6))
    twice, dead = down.copy(), down.copy()
    twice[5], dead[3] = twice[4], 0.0
    big = np.full((6, 6), 3.0)
    np.fill_diagonal(big, 4.0)
    nearly = np.concatenate([up[:, :1], 1e-3 * up[:, 1:2] - up[:, :1]], axis=1)
    with_nan, with_inf = up.copy(), down.copy()
    with_nan[3, 2], with_inf[2, 7] = np.nan, np.inf
    return {
        "nan": pair_of(with_nan, down, "F16"),
        "infinity": pair_of(up, with_inf, "F16"),
        "deficient": pair_of(up, twice, "F64"),
        "dead row": pair_of(up, dead, "F64"),
        "cancelling": pair_of(nearly, np.concatenate([down[:1], down[:1] + 1e-3 * down[1:2]]), "F64"),
        "overflow": pair_of(up * 1e150, down * 1e150, "F64"),
        "scale": pair_of(up, down, "F16", scale=float("inf")),
        "tiny": pair_of(*known(60, 50, np.array([1.0, 1e-3, 5e-7])), "F64"),
    }


@pytest.mark.parametrize("case", bad_pairs())
@pytest.mark.parametrize("place", [DEVICE, CPU])
def test_what_is_not_plain_is_left_to_the_cpu_and_its_neighbours_are_not(case: str, place: str) -> None:
    bad = bad_pairs()[case]
    neighbours = [pair_of(*known(60, 50, np.geomspace(1, 0.1, bad.rank), seed=i), "F16") for i in range(4)]
    found = in_groups([*neighbours[:2], bad, *neighbours[2:]], Fixed(place))
    if place == DEVICE or case in ("nan", "infinity", "scale"):
        assert found[2] is None
    for i, pair in zip((0, 1, 3, 4), neighbours, strict=True):
        ours = found[i]
        assert ours is not None
        np.testing.assert_allclose(ours.s, decompose([pair], NUMPY)[0].s, rtol=1e-9)


def test_factors_that_cancel_a_little_are_plain() -> None:
    """Rounding errors are those of t, which is 48 times the delta here; the CPU does not mind either."""
    up, down = known(60, 50, np.geomspace(1, 0.1, 6))
    near = np.concatenate([up[:, :1], 0.04 * up[:, 1:2] - up[:, :1]], axis=1)
    pair = pair_of(near, np.concatenate([down[:1], down[:1] + 0.04 * down[1:2]]), "F64")
    ours, (theirs,) = in_groups([pair], Fixed(DEVICE))[0], decompose([pair], NUMPY)
    assert ours is not None
    np.testing.assert_allclose(ours.s, theirs.s, rtol=1e-9)


def test_weak_pivots_and_failed_roots_are_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    grams = torch.eye(2, dtype=torch.float64).repeat(2, 1, 1)
    near = grams.clone()
    near[1, 0, 1] = near[1, 1, 0] = 1 - 5e-15  # a pivot of 1e-7, and a singular value that counts as zero
    assert device_decompose._solved(torch, grams, near)[3].tolist() == [True, False]
    root = torch.linalg.cholesky_ex
    failing = torch.tensor([0, 1], dtype=torch.int32)
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda matrices: (root(matrices)[0], failing))
    assert device_decompose._solved(torch, grams, grams)[3].tolist() == [True, False]


def test_a_layer_of_zeros_is_zero() -> None:
    up, down = known(60, 50, np.geomspace(1, 0.1, 6))
    ours = in_groups([pair_of(0 * up, down, "F16")], Fixed(DEVICE))[0]
    assert ours is not None
    assert not ours.s.any()
    assert not ours.p.any()


@pytest.mark.parametrize("part", [0, 1])
def test_eigenvectors_that_are_not_exact_are_not_used(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device may have another solver than LAPACK's: here one that is good to 1e-9."""
    eigh = torch.linalg.eigh

    def worse(matrices: Any) -> Any:
        parts = list(eigh(matrices))
        parts[part] = parts[part] * (1 + 1e-9)
        return parts

    monkeypatch.setattr(torch.linalg, "eigh", worse)
    rates = SolverRates()
    found = in_groups(many("F16", 6), rates)
    assert set(found.values()) == {None}
    assert rates.place(8) == CPU


def test_ranks_that_differ_and_empty_layers_are_left_to_the_cpu() -> None:
    one = Stored(np.zeros((6, 4), np.float32), "F32")
    assert in_groups([Pair(one, Stored(np.zeros((3, 6), np.float32), "F32"))]) == {0: None}
    assert in_groups([Pair(Stored(np.zeros((6, 0), np.float32), "F32"), Stored(np.zeros((0, 6), np.float32), "F32"))])


# Rates ------------------------------------------------------------------------------------------------------


def test_the_first_group_is_not_counted_and_the_faster_place_is_used() -> None:
    rates = SolverRates()
    places = []
    for seconds in (9.0, 2.0, 3.0, 1.0, 1.5):
        places.append(rates.place(16))
        rates.add(16, places[-1], 10, seconds)
    assert places == [DEVICE, DEVICE, DEVICE, CPU, CPU]
    assert rates.is_measured(16)
    assert rates.place(16) == CPU
    assert (rates.place(32), rates.is_measured(32)) == (DEVICE, False), "each rank has its own rates"
    rates.add(16, CPU, 10, 0.0)
    other = SolverRates()
    for place in (DEVICE, DEVICE, DEVICE, CPU, CPU):
        other.add(16, place, 10, {DEVICE: 1.0, CPU: 2.0}[place])
    assert other.place(16) == DEVICE


def test_groups_of_few_layers_are_not_measured() -> None:
    rates = SolverRates()
    for _ in range(9):
        rates.add(16, rates.place(16), 3, 1.0)
    assert not rates.is_measured(16)


def test_both_places_are_measured_in_a_run() -> None:
    rates = SolverRates()
    found = in_groups(many("F32", 200), rates, limited(1 << 19))
    assert rates.is_measured(8)
    assert None not in found.values()


# Factors ----------------------------------------------------------------------------------------------------


def jobs_of(pairs: Sequence[Pair], dtypes: tuple[str, str] = ("F16", "BF16"), gain: float = 1.5) -> list[FactorJob]:
    return [
        FactorJob(pair, decompose([pair], NUMPY)[0], np.arange(i % 3, 3 + i % 3), gain, dtypes)
        for i, pair in enumerate(pairs)
    ]


@pytest.mark.parametrize("dtypes", [("F16", "BF16"), ("F32", "F16"), ("BF16", "F32")])
@pytest.mark.parametrize("most", [1 << 14, 1 << 28])
def test_factors_are_rounded_as_numpy_rounds_them(dtypes: tuple[str, str], most: int) -> None:
    jobs = jobs_of(many("F16", 40), dtypes)
    others = dict.fromkeys(dtypes, 0)
    for job, found in zip(jobs, rounded_factors(jobs, limited(most)), strict=True):
        assert found is not None
        exact = truncated(job.pair, job.spectrum, job.kept, NUMPY, job.gain)
        for bits, values, dtype in zip(found, exact, dtypes, strict=True):
            expected = round_to(values, dtype)
            assert (bits.dtype, bits.shape) == (expected.dtype, expected.shape)
            step = {"F16": 2.0**-10, "BF16": 2.0**-7, "F32": 1e-5}[dtype]
            ours, theirs = singles(bits, dtype), singles(expected, dtype)
            np.testing.assert_allclose(ours, theirs, rtol=step, atol=1e-5 * np.abs(theirs).max())
            others[dtype] += int(np.count_nonzero(ours != theirs))
    # Sums in another order end on the other side of a rounding border now and then.
    assert all(count < 20 for dtype, count in others.items() if dtype != "F32"), "of about 8000 numbers"


@pytest.mark.parametrize("bad", [1e30, np.nan])
def test_a_number_that_does_not_fit_is_seen_before_it_is_rounded(bad: float) -> None:
    jobs = jobs_of(many("F32", 5))
    spectrum = jobs[2].spectrum
    p = spectrum.p.copy()
    p[0, 3] = bad
    jobs[2] = FactorJob(jobs[2].pair, Spectrum(spectrum.s, p, spectrum.q), np.arange(5), 1.0, ("F16", "F16"))
    assert [found is None for found in rounded_factors(jobs, TorchArrays("cpu"))] == [i == 2 for i in range(5)]


# Norms ------------------------------------------------------------------------------------------------------


def measured(weights: Sequence[Stored], arrays: TorchArrays, *, spectral: bool) -> list[tuple[float, float | None]]:
    groups = norms_on_device([one.shape for one in weights], weights.__getitem__, arrays, spectral=spectral)
    found = {i: (fro, spn) for group in groups for i, fro, spn in group}
    return [found[i] for i in range(len(weights))]


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (640, 640), (3, 500), (500, 1), (1, 1), (900, 320)])
def test_norms_of_stacks_agree_with_lapack(kind: str, shape: tuple[int, int]) -> None:
    values = [WEIGHTS[kind](*shape, np.random.default_rng(seed)).astype(np.float32) for seed in (0, 7, 8, 9)]
    for whole, (fro, spn) in zip(
        values, measured([Stored(one, "F32") for one in values], TorchArrays("cpu"), spectral=True), strict=True
    ):
        assert fro == pytest.approx(np.linalg.norm(whole.astype(np.float64)), rel=1e-5)
        assert spn == pytest.approx(np.linalg.norm(whole.astype(np.float64), 2), rel=1e-4)


@pytest.mark.parametrize("spectral", [False, True])
@pytest.mark.parametrize("most", [1 << 20, 1 << 28])
def test_norms_come_to_their_weights_for_any_shape_and_dtype(spectral: bool, most: int) -> None:
    rng = np.random.default_rng(0)
    weights = []
    for i in range(24):
        shape, kind = [(90, 70), (60, 90), (90, 70), (300, 40)][i % 4], ["F16", "BF16", "F32", "F8_E4M3", "F64"][i % 5]
        values = rng.standard_normal(shape) * 4.0 ** (i % 3)
        weights.append(Stored(values if kind == "F64" else round_to(values.astype(np.float32), kind), kind))
    for weight, (fro, spn) in zip(weights, measured(weights, limited(most), spectral=spectral), strict=True):
        expected = frobenius_and_spectral_norm(weight, NUMPY)
        assert fro == pytest.approx(expected[0], rel=1e-6)
        assert spn == (pytest.approx(expected[1], rel=1e-4) if spectral else None)


def test_odd_weights_do_not_disturb_their_neighbours() -> None:
    rng = np.random.default_rng(0)
    plain = rng.standard_normal((80, 60)).astype(np.float32)
    low = np.outer(plain[:, 0], plain[0])
    nan = plain.copy()
    nan[5, 5] = np.nan
    weights = [plain, 0 * plain, np.full_like(plain, np.inf), low, nan, np.eye(80, 60, dtype=np.float32), 1e15 * plain]
    found = measured([Stored(one, "F32") for one in weights], TorchArrays("cpu"), spectral=True)
    for i in (0, 3, 5, 6):
        assert found[i] == pytest.approx(frobenius_and_spectral_norm(Stored(weights[i], "F32"), NUMPY), rel=1e-4)
    assert found[1] == (0.0, 0.0)
    for i in (2, 4):
        assert not np.isfinite(found[i][0])
        assert str(found[i][1]) == "nan"


def test_a_complete_basis_goes_on_with_zeros() -> None:
    stack = torch.stack([torch.eye(30), torch.diag(torch.linspace(1, 2, 30))])
    basis, coefficients = torch.zeros(2, 5, 30), torch.zeros(2, 5, 2)
    basis[:, 0] = torch.from_numpy(np.random.default_rng(0).standard_normal(30, dtype=np.float32))
    basis[:, 0] /= torch.linalg.vector_norm(basis[0, 0])
    for step in range(5):
        device_norms._lanczos_step(torch, stack, torch.ones(2, 1), basis, coefficients, step)
    assert coefficients[:, 1:, 0].tolist() == [[0.0] * 4] * 2
    assert not basis[0, 1:].any()
    assert coefficients[1, :, 1].min() > 0


def test_eigenproblems_get_no_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some LAPACKs raise an error for it, or do not return."""
    eigh = np.linalg.eigh

    def checked(matrices: np.ndarray) -> Any:
        assert np.isfinite(matrices).all()
        return eigh(matrices)

    monkeypatch.setattr(np.linalg, "eigh", checked)
    weight = np.ones((40, 30), np.float32)
    weight[3, 3] = np.nan
    ((fro, spn),) = measured([Stored(weight, "F32")], TorchArrays("cpu"), spectral=True)
    assert (str(fro), str(spn)) == ("nan", "nan")


def test_stacks_are_bounded_and_complete() -> None:
    arrays = limited(1 << 20)
    shapes = [(100, 100), (50, 50), (100, 100), (300, 300), (50, 50)] * 9
    stacks = list(stacks_of(shapes, arrays))
    assert sorted(i for own in stacks for i in own) == list(range(len(shapes)))
    for own in stacks:
        assert len({shapes[i] for i in own}) == 1
        assert len(own) == 1 or len(own) * np.prod(shapes[own[0]]) <= arrays.bytes // 12
    assert fits_device((300, 300), arrays)
    assert not fits_device((500, 400), arrays)


# Subspace ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1 << 16, 1 << 28])
def test_alignments_are_those_of_single_layers(most: int) -> None:
    rng = np.random.default_rng(1)
    jobs = []
    for i, pair in enumerate(many("F16", 10)):
        n, m = pair.size
        stored = round_to(rng.standard_normal((m, n) if i % 2 else (n, m)).astype(np.float32), "BF16")
        jobs.append(SubspaceJob(pair, decompose([pair], NUMPY)[0], partial(Stored, stored, "BF16"), bool(i % 2)))
    for job, found in zip(jobs, subspace_norms_on_device(jobs, limited(most)), strict=True):
        expected = subspace_norms(job.pair, job.spectrum, job.read(), NUMPY, transposed=job.transposed)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("is_trusted", [True, False])
def test_a_weight_that_is_on_the_device_stays_there(is_trusted: bool) -> None:
    (pair,) = many("F16", 1)
    values = np.random.default_rng(1).standard_normal(pair.size).astype(np.float32)
    read: list[str] = []

    def on_cpu() -> np.ndarray:
        read.append("cpu")
        return values

    def on_device(device: str) -> Any:
        read.append(device)
        return torch.from_numpy(values.copy()) if is_trusted else None

    spectrum = decompose([pair], NUMPY)[0]
    job = SubspaceJob(pair, spectrum, lambda: PlacedMatrix(pair.size, on_cpu, on_device), False)
    (found,) = subspace_norms_on_device([job], TorchArrays("cpu"))
    np.testing.assert_allclose(found, subspace_norms(pair, spectrum, Stored(values, "F32"), NUMPY), rtol=1e-4)
    assert read == (["cpu"] if is_trusted else ["cpu", "cpu"])


# Waits ------------------------------------------------------------------------------------------------------


class Reads(TorchDispatchMode):
    """Counts the numbers that are read from the device one at a time, each of which would wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@contextmanager
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Count downloads and single numbers."""
    seen = SimpleNamespace(downloads=0, numbers=0)
    cpu = torch.Tensor.cpu

    def counted(tensor: Any) -> Any:
        seen.downloads += 1
        return cpu(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", counted)
    with Reads() as reads:
        yield seen
    seen.numbers = reads.count
    monkeypatch.undo()


@pytest.mark.parametrize("place", [DEVICE, CPU])
def test_a_group_is_downloaded_once(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [pair for pair in many("F16", 60) if pair.rank == 8]
    arrays = TorchArrays("cpu")
    with waits(monkeypatch) as seen:
        in_groups(pairs, Fixed(place), arrays)
    assert (seen.downloads, seen.numbers) == (1, 0)
    jobs = jobs_of(pairs)
    with waits(monkeypatch) as seen:
        list(rounded_factors(jobs, arrays))
    assert (seen.downloads, seen.numbers) == (1, 0)


def test_norms_wait_a_few_times_for_a_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    weights = [Stored(rng.standard_normal((200, 160)).astype(np.float32), "F32") for _ in range(10)]
    arrays = TorchArrays("cpu")
    with waits(monkeypatch) as seen:
        measured(weights, arrays, spectral=False)
    assert (seen.downloads, seen.numbers) == (1, 0)
    with waits(monkeypatch) as seen:
        measured(weights, arrays, spectral=True)
    assert seen.numbers == 0
    assert seen.downloads <= 2 + 14, "lengths, scales, and looks at the residual"


def test_these_tests_see_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    with waits(monkeypatch) as seen:
        assert float(torch.ones(3).sum()) == 3.0
        torch.ones(3).cpu()
    assert (seen.downloads, seen.numbers) == (1, 1)


# Uploads ----------------------------------------------------------------------------------------------------


class Pinned:
    """Replaces torch with a CUDA device: memory of the CPU, and events that note when they are waited for."""

    uint8 = torch.uint8
    float16 = torch.float16
    bfloat16 = torch.bfloat16
    float32 = torch.float32
    float64 = torch.float64

    def __init__(self) -> None:
        self.events: list[str] = []
        self.pinned: list[int] = []
        made = iter(range(100))
        events = self.events

        class Event:
            def __init__(self) -> None:
                self.number = next(made)

            def record(self, stream: str) -> None:
                assert stream == "stream of cuda:1"
                events.append(f"copy {self.number}")

            def synchronize(self) -> None:
                events.append(f"wait for {self.number}")

        self.cuda = SimpleNamespace(Event=Event, current_stream=lambda device: f"stream of {device.name}")

    def empty(self, size: int, *, dtype: Any, pin_memory: bool = False, device: Any = None) -> Any:
        if pin_memory:
            self.pinned.append(size)
        return torch.empty(size, dtype=dtype)


def test_a_buffer_is_filled_again_only_when_the_device_has_read_it() -> None:
    pinned = Pinned()
    arrays: Any = SimpleNamespace(torch=pinned, target=SimpleNamespace(type="cuda", name="cuda:1"))
    upload = Upload(arrays)
    stored = Stored(np.arange(12, dtype=np.float32).reshape(3, 4), "F32")
    for _ in range(4):
        ((found,),) = upload.stacks([[stored]])
        np.testing.assert_array_equal(found.numpy(), stored.bits)
    assert pinned.events == ["copy 0", "copy 1", "wait for 0", "copy 2", "wait for 1", "copy 3"]
    assert len(pinned.pinned) == 2, "two buffers are used in turn"


def test_stacks_hold_what_is_stored() -> None:
    rng = np.random.default_rng(0)
    upload = Upload(TorchArrays("cpu"))
    stacks = []
    for kind in ("F64", "F16", "BF16", "F32", "F8_E4M3"):
        values = rng.standard_normal((3, 5, 7))
        stacks.append(
            [Stored(one if kind == "F64" else round_to(one.astype(np.float32), kind), kind) for one in values]
        )
    for _ in range(3):
        for stack, found in zip(stacks, upload.stacks(stacks), strict=True):
            expected = np.stack([singles(one.bits, one.kind) for one in stack])
            np.testing.assert_array_equal(found.float().numpy(), expected)


def test_a_stack_of_different_matrices_is_refused() -> None:
    upload = Upload(TorchArrays("cpu"))
    one, other = Stored(np.zeros((2, 3), np.float32), "F32"), Stored(np.zeros((3, 2), np.float32), "F32")
    with pytest.raises(ValueError, match="cannot hold"):
        upload.stacks([[one, other]])
    with pytest.raises(ValueError, match="cannot hold"):
        upload.stacks([[one, Stored(np.zeros((2, 3), np.uint16), "F16")]])
    with pytest.raises(ValueError, match="is carried by"):
        upload.stacks([[Stored(np.zeros((2, 3), np.float32), "F16")]])


# Memory -----------------------------------------------------------------------------------------------------


def peak_of_torch(work: Any) -> int:
    """The most bytes that torch's tensors had at a time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        work()
    now = most = 0
    for event in watched.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def test_memory_is_bounded() -> None:
    """Here the two buffers of uploads, which are memory of the CPU, are counted too."""
    rng = np.random.default_rng(0)
    arrays = limited(8 << 20)
    pairs = [
        Pair(
            Stored(round_to(rng.standard_normal((640, 32)).astype(np.float32), "F16"), "F16"),
            Stored(round_to(rng.standard_normal((32, 640)).astype(np.float32), "F16"), "F16"),
        )
        for _ in range(150)
    ]
    weights = [Stored(round_to(rng.standard_normal((320, 320)).astype(np.float32), "F16"), "F16") for _ in range(40)]
    spectra = [decompose([pair], NUMPY)[0] for pair in pairs]
    jobs = [FactorJob(*one, np.arange(16), 1.0, ("F16", "F16")) for one in zip(pairs, spectra, strict=True)]
    for place in (DEVICE, CPU):
        assert peak_of_torch(partial(in_groups, pairs, Fixed(place), arrays)) < 1.25 * arrays.bytes
    assert peak_of_torch(lambda: list(rounded_factors(jobs, arrays))) < 1.25 * arrays.bytes
    assert peak_of_torch(lambda: measured(weights, arrays, spectral=True)) < 1.25 * arrays.bytes
    large = Stored(np.tile(weights[0].bits, (2, 2)), "F16")
    aligned = [SubspaceJob(pair, one, lambda: large, False) for pair, one in zip(pairs, spectra, strict=True)]
    assert peak_of_torch(lambda: list(subspace_norms_on_device(aligned, arrays))) < 1.25 * arrays.bytes


# Precision of products --------------------------------------------------------------------------------------


@pytest.fixture
def tf32() -> Iterator[None]:
    """A program that lets products be rounded to TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


def test_products_are_not_rounded_and_the_setting_comes_back(tf32: None) -> None:
    with full_float32(torch):
        assert not torch.backends.cuda.matmul.allow_tf32
        with full_float32(torch):
            pass
        assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32
    assert torch.get_float32_matmul_precision() == "high"


def test_a_program_with_torchs_newer_setting_keeps_it() -> None:
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("this torch has one setting")
    matmul.fp32_precision = "tf32"
    try:
        with full_float32(torch):
            assert matmul.fp32_precision == "ieee"
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = "ieee"
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("work", ["factors", "norms", "subspace"])
def test_work_in_float32_is_not_rounded_to_tf32(work: str, tf32: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    products = torch.Tensor.__matmul__ if work != "norms" else torch.bmm

    def watched(*arguments: Any) -> Any:
        seen.append(torch.backends.cuda.matmul.allow_tf32)
        return products(*arguments)

    if work == "norms":
        monkeypatch.setattr(torch, "bmm", watched)
    else:
        monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    (pair,) = many("F16", 1)
    weight = Stored(np.ones(pair.size, np.float32), "F32")
    if work == "factors":
        list(rounded_factors(jobs_of([pair]), TorchArrays("cpu")))
    elif work == "norms":
        measured([weight], TorchArrays("cpu"), spectral=True)
    else:
        job = SubspaceJob(pair, decompose([pair], NUMPY)[0], lambda: weight, False)
        list(subspace_norms_on_device([job], TorchArrays("cpu")))
    assert seen
    assert not any(seen)
