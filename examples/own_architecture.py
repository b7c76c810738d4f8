"""An architecture that the package does not know: where its units live, by module names."""

from __future__ import annotations

from safety_neurons import ARCHITECTURES, LoadedModel, SiteKind, decode
from safety_neurons.engine.architectures import Architecture
from safety_neurons.inference import Setting

ARCHITECTURES.register(
    "phi",
    Architecture(
        {
            SiteKind.MLP: r"\.layers\.(\d+)\.mlp\.fc2$",
            SiteKind.ATTENTION: r"\.layers\.(\d+)\.self_attn\.dense$",
        }
    ),
)


def main(source: str = "microsoft/phi-2") -> LoadedModel:
    """Load one; loading proves that every site named here acts on the logits."""
    model = LoadedModel.load(source)
    print(f"{model.space().total:,} neurons in {model.space().layers} layers")
    ids = [model.tokenizer("Hello!")["input_ids"]]
    ((tokens,),) = decode(model, ids, [Setting()], max_new_tokens=5)
    print(model.tokenizer.decode(tokens))
    return model


if __name__ == "__main__":
    main()
