import pytest
import torch

from ncfast.evaluation.samplers import OwnRows


def loader(size, batch, **options):
    data = torch.utils.data.TensorDataset(torch.arange(size))
    return torch.utils.data.DataLoader(data, batch, **options)


@pytest.mark.parametrize("world", [2, 3, 5])
@pytest.mark.parametrize("size", [1, 4, 9, 10, 13])
@pytest.mark.parametrize("kind", ["torch", "torch shuffled", "accelerate", "accelerate split"])
def test_rows_that_a_sampler_repeats_do_not_count(kind, size, world):
    """Over all ranks every sample is there exactly once, whatever the sizes."""
    data_loader = pytest.importorskip("accelerate.data_loader")
    found = []
    for rank in range(world):
        if kind.startswith("torch"):
            data = range(size)
            sampler = torch.utils.data.DistributedSampler(
                data, world, rank, shuffle=kind.endswith("shuffled")
            )
            mine = loader(size, 2, sampler=sampler)
        else:
            split = kind.endswith("split")
            inner = loader(size, 2 * world if split else 2).batch_sampler
            shard = data_loader.BatchSamplerShard(inner, world, rank, split_batches=split)
            mine = loader(size, 1)
            mine = torch.utils.data.DataLoader(mine.dataset, batch_sampler=shard)
        own = OwnRows(mine)
        for (batch,) in mine:
            found += batch[: own.of(len(batch))].tolist()
    assert sorted(found) == list(range(size))
