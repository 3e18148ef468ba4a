"""Load figures of the gRPC server against calling the same SavedModel in-process.

Claims (DESIGN section 7): the server adds at most 1.5 ms of CPU at batch 1, and with batching it
reaches 0.9x the in-process throughput.

    python experiments/benchmarks/bench_serving.py                 # a toy network, 4 ms an image
    python experiments/benchmarks/bench_serving.py --model=RUN/export/NAME --image=photo.jpg
    python experiments/benchmarks/bench_serving.py --fuzz=10000    # malformed requests
    python experiments/benchmarks/bench_serving.py --soak=60       # seconds of mixed load
    python experiments/benchmarks/bench_serving.py --soak=600 --pause=0.05   # a gentle one

The server is a process of its own, so its CPU time is apart from the clients'. Rounds of
in-process and served calls alternate; medians and the spread over rounds are printed. CPU time is
the measure: wall time and requests/s are only meaningful on an idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import grpc  # noqa: E402
import numpy as np  # noqa: E402
import psutil  # noqa: E402

PREDICT = "/tensorflow.serving.PredictionService/Predict"


def save_toy(folder: str) -> str:
    """A small convolutional network over decoded 32 px images, with an export's signature."""
    import tensorflow as tf

    class Network(tf.Module):
        def __init__(self):
            super().__init__()
            draw = tf.random.stateless_normal
            self.kernels = [
                tf.Variable(draw([3, 3, a, b], [a, b]) / (3 * a**0.5))
                for a, b in ((3, 64), (64, 64), (64, 64), (64, 128))
            ]
            self.prototypes = tf.Variable(draw([128, 200], [7, 7]))
            self.names = tf.constant([f"class {i}" for i in range(200)])

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
        def serve(self, image_bytes):
            def one(raw):
                image = tf.io.decode_image(raw, channels=3, expand_animations=False)
                image.set_shape([None, None, 3])
                return tf.image.resize(image, [32, 32])

            x = tf.map_fn(one, image_bytes, fn_output_signature=tf.TensorSpec([32, 32, 3])) / 255.0
            for kernel in self.kernels:
                x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME"))
            vector = tf.math.l2_normalize(tf.reduce_mean(x, [1, 2]), axis=-1)
            scores, ids = tf.math.top_k(vector @ self.prototypes, 5)
            return {
                "labels": tf.gather(self.names, ids),
                "class_ids": tf.cast(ids, tf.int64),
                "scores": scores,
            }

    network = Network()
    version = os.path.join(folder, "toy", "1")
    tf.saved_model.save(network, version, signatures={"serving_default": network.serve})
    return os.path.dirname(version)


class ServerProcess:
    """`python -m longtail_tf.serve` on a free port, and its CPU time."""

    def __init__(self, base: str, *flags: str):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "longtail_tf.serve", f"--model_base_path={base}",
             "--model_name=m", "--port=0", *flags],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.address = self._process.stdout.readline().split()[-1]
        self._psutil = psutil.Process(self._process.pid)

    def cpu_s(self) -> float:
        times = self._psutil.cpu_times()
        return times.user + times.system

    def rss_mib(self) -> float:
        return self._psutil.memory_info().rss / 2**20

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> int:
        self._process.terminate()
        return self._process.wait(60)


def request_of(images: list[bytes]) -> bytes:
    from longtail_tf.serving import tensor_protos, wire

    request = wire.PredictRequest()
    request.model_spec.name = "m"
    array = np.empty(len(images), object)
    array[:] = images
    tensor_protos.fill(request.inputs["image_bytes"], array)
    return request.SerializeToString()


def load(address: str, raw: bytes, clients: int, requests: int) -> tuple[list[float], float]:
    """Latencies in seconds of `requests` calls by `clients` threads, and the wall time."""
    latencies: list[float] = []

    def work(count: int) -> None:
        with grpc.insecure_channel(
            address, options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            call = channel.unary_unary(PREDICT)
            for _ in range(count):
                start = time.perf_counter()
                call(raw, timeout=120)
                latencies.append(time.perf_counter() - start)

    start = time.perf_counter()
    threads = [threading.Thread(target=work, args=(requests // clients,)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies, time.perf_counter() - start


class InProcess:
    """The same SavedModel called without a server."""

    def __init__(self, base: str):
        from longtail_tf.serving.servable import Servable

        version = max(int(name) for name in os.listdir(base) if name.isdigit())
        self._servable = Servable(os.path.join(base, str(version)), name="m", version=version)
        self._signature = self._servable.signatures["serving_default"]

    def __call__(self, images: list[bytes], calls: int) -> tuple[float, float]:
        """(CPU seconds, wall seconds) an image."""
        array = np.empty(len(images), object)
        array[:] = images
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(calls):
            self._servable.run(self._signature, {"image_bytes": array})
        scale = calls * len(images)
        return (time.process_time() - cpu) / scale, (time.perf_counter() - wall) / scale


def spread(values: list[float], unit: str, scale: float = 1.0) -> str:
    scaled = sorted(value * scale for value in values)
    return f"{statistics.median(scaled):8.3f} {unit} ({scaled[0]:.3f} to {scaled[-1]:.3f})"


def measure(base: str, image: bytes, rounds: int, calls: int, server_flags: list[str]) -> None:
    in_process = InProcess(base)
    server = ServerProcess(base, *server_flags)
    alone: dict[str, list[float]] = {"cpu1": [], "cpu32": [], "wall32": []}
    served: dict[int, dict[str, list[float]]] = {
        clients: {"cpu": [], "rate": [], "p50": [], "p99": []} for clients in (1, 8, 32)
    }
    batched: list[float] = []
    load(server.address, request_of([image]), 4, 100)
    in_process([image], 20)
    in_process([image] * 32, 5)
    for _ in range(rounds):
        alone["cpu1"].append(in_process([image], calls)[0])
        cpu, wall = in_process([image] * 32, max(3, calls // 8))
        alone["cpu32"].append(cpu)
        alone["wall32"].append(wall)
        for clients, numbers in served.items():
            before = server.cpu_s()
            latencies, wall = load(server.address, request_of([image]), clients, 4 * calls)
            numbers["cpu"].append((server.cpu_s() - before) / len(latencies))
            numbers["rate"].append(len(latencies) / wall)
            numbers["p50"].append(float(np.percentile(latencies, 50)))
            numbers["p99"].append(float(np.percentile(latencies, 99)))
        before = server.cpu_s()
        latencies, _ = load(server.address, request_of([image] * 32), 2, max(4, calls // 4))
        batched.append((server.cpu_s() - before) / len(latencies) / 32)
    print(f"in-process, batch 1:  CPU an image {spread(alone['cpu1'], 'ms', 1e3)}")
    print(f"in-process, batch 32: CPU an image {spread(alone['cpu32'], 'ms', 1e3)}")
    print(f"                      images/s     {spread([1 / w for w in alone['wall32']], '')}")
    for clients, numbers in served.items():
        print(
            f"{clients:2d} clients, 1 image a request:\n"
            f"    server CPU {spread(numbers['cpu'], 'ms', 1e3)}"
            f"\n    requests/s {spread(numbers['rate'], '')}"
            f"\n    p50        {spread(numbers['p50'], 'ms', 1e3)}"
            f"\n    p99        {spread(numbers['p99'], 'ms', 1e3)}"
        )
    print(f"2 clients, 32 images a request: server CPU an image {spread(batched, 'ms', 1e3)}")
    overhead = [s - a for s, a in zip(served[1]["cpu"], alone["cpu1"])]
    print(f"\nserver CPU added at batch 1:        {spread(overhead, 'ms', 1e3)}   reach <= 1.5 ms")
    print("throughput by CPU, served / in-process (reach 0.9x):")
    for name, ours, theirs in (
        ("32 clients x 1 image / calls of 1 image", served[32]["cpu"], alone["cpu1"]),
        ("32 clients x 1 image / calls of 32 images", served[32]["cpu"], alone["cpu32"]),
        ("2 clients x 32 images / calls of 32 images", batched, alone["cpu32"]),
    ):
        print(f"  {name:44s} {spread([a / s for a, s in zip(theirs, ours)], 'x')}")
    print("server exit code after SIGTERM:", server.stop())


def fuzz(base: str, count: int) -> None:
    """Malformed requests of every kind; the server must answer each and serve on."""
    from tests.serving.test_faults import CLIENT_FAULTS, mutated_request

    server = ServerProcess(base)
    rng = np.random.default_rng(0)
    outcomes: dict[str, int] = {}
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary(PREDICT)

        def send(number: int) -> None:
            for index in range(number):
                raw = mutated_request(rng)
                try:
                    call(raw, timeout=60)
                    code = "OK"
                except grpc.RpcError as error:
                    code = error.code().name
                outcomes[code] = outcomes.get(code, 0) + 1
                if index % (number // 4 + 1) == 0:
                    print(f"  {index} sent, server {server.rss_mib():.0f} MiB", flush=True)

        send(count // 5)
        settled = server.rss_mib()
        send(count - count // 5)
        grown = server.rss_mib() - settled
    print(f"{count} malformed requests: {outcomes}")
    print(f"alive: {server.is_alive()}; RSS grew {grown:.1f} MiB after the first fifth")
    unexpected = set(outcomes) - CLIENT_FAULTS - {"OK"}
    print("unexpected codes:", unexpected or "none", "- exit code", server.stop())


def soak(base: str, image: bytes, seconds: float, pause_s: float, swap_every_s: float) -> None:
    """Mixed load, with or without swaps of versions; memory is printed as it goes."""
    import shutil

    from tests.serving.test_faults import mutated_request

    folder = tempfile.mkdtemp()
    newest = max(name for name in os.listdir(base) if name.isdigit())
    shutil.copytree(os.path.join(base, newest), os.path.join(folder, "1"))
    server = ServerProcess(folder, "--file_system_poll_wait_seconds=0.2")
    rng, good = np.random.default_rng(0), request_of([image])
    failures, sent, version = 0, 0, 1
    start = last = shown = time.monotonic()
    memory: list[tuple[float, float]] = []
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary(PREDICT)
        while time.monotonic() - start < seconds:
            for _ in range(50):
                sent += 1
                try:
                    call(good, timeout=60)
                except grpc.RpcError:
                    failures += 1
                with contextlib.suppress(grpc.RpcError):
                    call(mutated_request(rng), timeout=60)
                time.sleep(pause_s)
            if swap_every_s and time.monotonic() - last > swap_every_s:
                last = time.monotonic()
                version += 1
                beside = os.path.join(folder, f".{version}")
                shutil.copytree(os.path.join(folder, str(version - 1)), beside)
                os.rename(beside, os.path.join(folder, str(version)))
                if version > 4:
                    shutil.rmtree(os.path.join(folder, str(version - 4)))
            memory.append((time.monotonic() - start, server.rss_mib()))
            if time.monotonic() - shown > seconds / 20:
                shown = time.monotonic()
                print(
                    f"  {shown - start:4.0f} s: version {version}, {sent} good requests, "
                    f"{failures} failed, server {memory[-1][1]:.0f} MiB",
                    flush=True,
                )
    for name, low, high in (("second", 0.25, 0.5), ("last", 0.75, 1.0)):
        quarter = [mib for at, mib in memory if low <= at / seconds <= high]
        if quarter:
            print(
                f"  {name} quarter: median {statistics.median(quarter):.0f} MiB "
                f"({min(quarter):.0f} to {max(quarter):.0f})"
            )
    print(
        f"soak: {sent} good requests, {failures} failed, {version} versions, alive "
        f"{server.is_alive()}, exit code {server.stop()}"
    )
    shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="folder above the version folders; a toy network if absent")
    parser.add_argument("--image", help="an encoded image; a 32 px PNG of noise if absent")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=60, help="in-process calls a round")
    parser.add_argument("--server_flag", action="append", default=[], help="for serve, repeatable")
    parser.add_argument("--fuzz", type=int, default=0)
    parser.add_argument("--soak", type=float, default=0.0, help="seconds")
    parser.add_argument("--swap_every", type=float, default=2.0, help="s of a soak; 0: no swaps")
    parser.add_argument("--pause", type=float, default=0.0, help="s between a soak's requests")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = flags.model or save_toy(folder)
        if flags.image:
            image = pathlib.Path(flags.image).read_bytes()
        else:
            import tensorflow as tf

            noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            image = tf.io.encode_png(noise).numpy()
        if flags.fuzz:
            fuzz(base, flags.fuzz)
        elif flags.soak:
            soak(base, image, flags.soak, flags.pause, flags.swap_every)
        else:
            measure(base, image, flags.rounds, flags.calls, flags.server_flag)


if __name__ == "__main__":
    main()
