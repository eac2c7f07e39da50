"""A process that fills a store, for tests that kill it, run two of it, or give it many devices.

`python tile_worker.py '{"folder": …}'` prints a line of JSON a mesh: the tiles it computed and on which devices.
"""

import json
import os
import resource
import sys
import time


def main(folder, n=40, tile=4, pause=0.0, devices=1, meshes=(), distributed=None, columns=None, limit=None):
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    import jax
    import numpy as np

    if distributed:
        jax.distributed.initialize(**distributed)
    from npk.tiles import stored

    x = np.random.default_rng(0).standard_normal((n, 50)).astype(np.float32)
    places = np.arange(n, dtype=np.int32)
    computed, used = [], set()

    @jax.jit
    def numbers(a, b):
        return jax.numpy.tanh(a @ b.T)

    def kernel(a, b):
        if len(a["place"]) == tile:
            if limit and len(computed) == 6:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            computed.append((int(a["place"][0]) // tile, int(b["place"][0]) // tile))
        time.sleep(pause)
        result = numbers(a["x"], b["x"])
        used.update(device.id for device in result.devices())
        return result

    one = {"x": x, "place": places}
    two = None if columns is None else {"x": x[:columns], "place": places[:columns]}
    for size in meshes or (None,):
        mesh = None if size is None else jax.sharding.Mesh(np.array(jax.devices()[:size]), ("tiles",))
        where = folder if size is None else f"{folder}-{size}"
        run = stored(kernel, where, identity={"name": "tanh"}, tile=tile, mesh=mesh)
        done, every = run(one, two).tiles
        assert done == every
        report = {"computed": computed, "devices": sorted(used), "process": jax.process_index()}
        print(json.dumps(report), flush=True)
        computed.clear(), used.clear()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
