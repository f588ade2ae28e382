import pytest
import torch
from torch import nn

import ncfast
from ncfast.evaluation import evaluate
from ncfast.features.pooling import MaskedPool

V, D, B, T = 11, 6, 12, 9


class Causal(nn.Module):
    """Returns what a causal model of transformers returns."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix = nn.Embedding(V, D), nn.GRU(D, D, batch_first=True)
        self.head = nn.Linear(D, V, bias=False)

    def hidden(self, ids):
        return self.mix(self.embed(ids))[0]

    def forward(self, input_ids, attention_mask=None):
        return {"logits": self.head(self.hidden(input_ids))}


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Causal()


def sequences(side="right"):
    ids = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(T) < torch.arange(3, 3 + B).clamp(max=T).unsqueeze(1)).long()
    return ids, mask.flip(1) if side == "left" else mask


def masked(ids, mask, size=5):
    parts = zip(ids.split(size), mask.split(size), strict=True)
    return [{"input_ids": ids, "attention_mask": mask} for ids, mask in parts]


def expected(net, ids, keep, shift):
    """Metrics of the pairs that count, from the definition."""
    with torch.no_grad():
        hidden = net.hidden(ids)
    end = T - shift
    feats, labels = hidden[:, :end][keep], ids[:, shift:][keep]
    found = ncfast.collapse_metrics(feats, labels, weight=net.head.weight)
    hit = (feats @ net.head.weight.detach().T).argmax(1) == labels
    return {"accuracy": float(hit.double().mean())} | {k: float(v) for k, v in found.items()}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("shift", [1, 2])
def test_next_tokens(net, side, shift):
    """Both tokens of a pair must be real; labels default to the input ids."""
    ids, mask = sequences(side)
    keep = (mask[:, :-shift] * mask[:, shift:]).bool()
    loader = masked(ids, mask)
    found = evaluate(net, loader, shift=shift)
    assert dict(found) == pytest.approx(expected(net, ids, keep, shift), rel=1e-5, nan_ok=True)
    assert found.samples == int(keep.sum())
    assert found.num_classes == V


@pytest.mark.parametrize("shift", [0, 1])
def test_padding_outside_the_distribution_is_left_out(net, shift):
    ids, mask = sequences()
    inside = [{"input_ids": ids, "labels": ids.flip(0), "attention_mask": mask.flip(0)}]
    found = evaluate(
        net, inside, ood_loader=masked(ids, mask), shift=shift, metrics="nc5.ood_cosine"
    )
    with torch.no_grad():
        hidden = net.hidden(ids)
    end = T - shift
    keep = (mask[:, :end] * mask[:, shift:]).bool()
    own = (mask.flip(0)[:, :end] * mask.flip(0)[:, shift:]).bool()
    alone = ncfast.collapse_metrics(
        hidden[:, :end][own],
        ids.flip(0)[:, shift:][own],
        ood_feats=hidden[:, :end][keep],
        num_classes=V,
        metrics="nc5.ood_cosine",
    )
    assert found["nc5.ood_cosine"] == pytest.approx(float(alone["nc5.ood_cosine"]))


@pytest.mark.parametrize("form", [lambda ids: ids, lambda ids: [ids], lambda ids: (ids, ids)])
def test_next_tokens_without_a_dict(net, form):
    ids, _ = sequences()
    found = evaluate(net, [form(part) for part in ids.split(4)], shift=1)
    keep = torch.ones(B, T - 1, dtype=torch.bool)
    assert dict(found) == pytest.approx(expected(net, ids, keep, 1), rel=1e-5, nan_ok=True)


def test_labels_of_tokens_and_minus_100(net):
    """A label for each token; padding is known from the labels, the mask or both."""
    ids, mask = sequences()
    labels = ids.masked_fill(mask == 0, -100)
    other = {"input_ids": ids.flip(1), "attention_mask": mask}
    found = evaluate(net, [{"input_ids": ids.flip(1), "labels": labels}])
    by_mask = evaluate(net, [other | {"labels": ids}])
    assert dict(found) == pytest.approx(dict(by_mask), nan_ok=True)
    assert found.samples == int(mask.sum())
    assert found.ignored == by_mask.ignored == B * T - found.samples


def test_labels_that_are_the_input_ids_are_pointed_out(net):
    ids, mask = sequences()
    with pytest.warns(UserWarning, match="Pass shift=1"):
        evaluate(net, [{"input_ids": ids, "labels": ids.masked_fill(mask == 0, -100)}] * 2)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("how", ["last", "gap"])
def test_pooling_leaves_out_padding(net, how, side):
    ids, mask = sequences(side)
    labels = torch.arange(B) % 3
    loader = [{"input_ids": ids, "attention_mask": mask, "labels": labels}]
    found = evaluate(net, loader, layers="mix", pool=how, num_classes=3, metrics="nc1")
    with torch.no_grad():
        hidden = net.hidden(ids)
    rows = [h[m.bool()] for h, m in zip(hidden, mask, strict=True)]
    feats = torch.stack([row[-1] if how == "last" else row.mean(0) for row in rows])
    alone = ncfast.collapse_metrics(feats, labels, metrics="nc1")
    assert dict(found) == pytest.approx({k: float(v) for k, v in alone.items()}, rel=1e-5)


def test_padding_that_cannot_be_told_is_pointed_out_once(net):
    ids, _ = sequences()
    loader = [{"input_ids": ids, "labels": torch.arange(B) % 3}] * 2
    with pytest.warns(UserWarning, match="count padding as tokens") as caught:
        evaluate(net, loader, layers="mix", pool="gap", num_classes=3, metrics="nc1")
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_padding_that_is_nan_does_no_harm():
    pool = MaskedPool("gap")
    pool.mask = torch.tensor([[True, True, False]])
    output = torch.tensor([[[1.0], [3.0], [torch.nan]]])
    assert pool(output).tolist() == [[2.0]]


def test_a_layer_with_the_tokens_first(net):
    """torch's own layers return (T, N, D) unless told otherwise."""
    net.mix = nn.GRU(D, D)
    net.hidden = lambda ids: net.mix(net.embed(ids).transpose(0, 1))[0].transpose(0, 1)
    ids, _ = sequences()
    labels = torch.arange(B) % 3
    loader = [{"input_ids": ids, "labels": labels, "attention_mask": torch.ones(B, T)}]
    found = evaluate(net, loader, layers="mix", pool="last", num_classes=3, metrics="rnc1.max")
    with torch.no_grad():
        alone = ncfast.rnc1(net.hidden(ids)[:, -1], labels)
    assert found["rnc1.max"] == pytest.approx(float(alone))


@pytest.mark.filterwarnings("ignore:::transformers", "ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("kind", ["GPT2", "Llama"])
def test_a_causal_model_of_transformers(kind):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    sizes = {
        "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16},
        "Llama": {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
    }[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=V, bos_token_id=0, eos_token_id=0, pad_token_id=0, **sizes
    )
    model = getattr(transformers, f"{kind}LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")
    model = model(config)
    ids, mask = sequences()
    loader = masked(ids, mask)
    found = evaluate(model, loader, shift=1)
    with torch.no_grad():
        out = model.eval()(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    keep = (mask[:, :-1] * mask[:, 1:]).bool()
    feats, labels = out.hidden_states[-1][:, :-1][keep], ids[:, 1:][keep]
    alone = ncfast.collapse_metrics(feats, labels, weight=model.lm_head.weight)
    hit = out.logits[:, :-1][keep].argmax(1) == labels
    assert found["accuracy"] == pytest.approx(float(hit.double().mean()))
    for id_ in ("nc1.cdnv", "nc1.pinv", "nc2.log_energy", "nc3.uniform_duality", "nc4.agreement"):
        assert found[id_] == pytest.approx(float(alone[id_]), rel=1e-4), id_
