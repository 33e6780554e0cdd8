"""Train the embedded model from scratch on the CPU: ``python -m bench.demo_model.train --stories F --out DIR``."""

import argparse
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from bench.demo_model.checkpoint import write_checkpoint
from bench.demo_model.corpus import Facts, Stories, epoch_documents, fact_documents, load_facts, load_stories
from bench.demo_model.model import BitNet, ModelShape
from bench.demo_model.text_encoding import TokenStream, encode_documents, load_tokenizer, train_tokenizer

SECOND_STAGE = 0.6  # progress at which the learning rate drops and weight decay ends
LONG_CONTEXT = 0.85  # progress from which windows are as long as the model allows
LARGEST_GRADIENT_NORM = 1.0
EVALUATION_WINDOW = 256


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train; the defaults made the embedded model.

    Attributes
    ----------
    total_tokens : int
        Tokens to train on, repetitions included.
    batch_tokens : int
        Tokens of one optimizer step.
    context : int
        Window length until ``LONG_CONTEXT``, in tokens.
    matrix_rate, other_rate : float
        Highest learning rates of the ternary layers (Muon) and of embedding and norms (Adam).
    warmup_steps : int
        Steps over which both rates rise to their highest.
    report_every, save_every : int
        Steps between lines of the log, and between saved states.
    """

    total_tokens: int = 36_000_000
    batch_tokens: int = 6_144
    context: int = 256
    matrix_rate: float = 6e-3
    other_rate: float = 4e-3
    warmup_steps: int = 60
    report_every: int = 20
    save_every: int = 500


def stage_at(progress: float) -> tuple[float, float]:
    """Return the share of the highest learning rate, and the weight decay, at a progress between 0 and 1.

    References
    ----------
    Ma et al., "The Era of 1-bit LLMs: Training Tips, Code and FAQ", 2024: two stages, the second without weight decay.
    """
    if progress < SECOND_STAGE:
        return 1.0 - 0.45 * progress / SECOND_STAGE, 0.1
    return 0.4 * (1.0 - progress) / (1.0 - SECOND_STAGE) + 0.005, 0.0


class Trainer:
    """A model, its optimizers and its place in the data, which are saved and resumed together."""

    def __init__(self, shape: ModelShape, plan: Plan, stream: TokenStream) -> None:
        self.shape = shape
        self.plan = plan
        self.stream = stream
        self.model = BitNet(shape)
        self.muon = torch.optim.Muon(self.model.matrices(), lr=plan.matrix_rate, adjust_lr_fn="match_rms_adamw")
        self.adam = torch.optim.Adam(self.model.other_parameters(), lr=plan.other_rate, betas=(0.9, 0.98))
        self.step_count = 0

    @property
    def progress(self) -> float:
        """Share of the planned tokens that has been trained on."""
        return self.step_count * self.plan.batch_tokens / self.plan.total_tokens

    def step(self) -> float:
        """Train on one batch and return its loss, in nats a token."""
        context = self.plan.context if self.progress < LONG_CONTEXT else self.shape.max_seq_len
        windows = torch.from_numpy(self.stream.next_batch(self.plan.batch_tokens // context, context))
        loss = next_token_loss(self.model, windows)
        self.model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), LARGEST_GRADIENT_NORM)
        self._set_rates()
        self.muon.step()
        self.adam.step()
        self.step_count += 1
        return loss.item()

    def _set_rates(self) -> None:
        share, weight_decay = stage_at(self.progress)
        share *= min(1.0, (self.step_count + 1) / self.plan.warmup_steps)
        self.muon.param_groups[0].update(lr=self.plan.matrix_rate * share, weight_decay=weight_decay)
        self.adam.param_groups[0].update(lr=self.plan.other_rate * share)

    def save(self, path: Path) -> None:
        """Write everything that resuming needs; a run cut short leaves the last whole state."""
        state = {
            "model": self.model.state_dict(),
            "muon": self.muon.state_dict(),
            "adam": self.adam.state_dict(),
            "step_count": self.step_count,
            "epoch": self.stream.epoch,
            "position": self.stream.position,
        }
        temporary = path.with_suffix(".part")
        torch.save(state, temporary)
        temporary.replace(path)

    def load(self, path: Path) -> None:
        """Take up a saved state."""
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
        self.step_count = state["step_count"]
        self.stream.move_to(state["epoch"], state["position"])


def next_token_loss(model: BitNet, windows: Tensor) -> Tensor:
    """Return the mean cross entropy, in nats, of each window's tokens given those before them."""
    logits = model(windows[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


@torch.no_grad()
def evaluate(model: BitNet, tokens: npt.NDArray[np.uint16], n_windows: int = 64) -> float:
    """Return the mean loss, in nats a token, over the first windows of a text."""
    stream = TokenStream(lambda _epoch: tokens)
    n_windows = min(n_windows, (tokens.size - 1) // EVALUATION_WINDOW)
    losses = [
        next_token_loss(model, torch.from_numpy(stream.next_batch(1, EVALUATION_WINDOW))) for _ in range(n_windows)
    ]
    return torch.stack(losses).mean().item()


def train(trainer: Trainer, held_out: npt.NDArray[np.uint16], out: Path) -> None:
    """Train to the end of the plan, telling the losses as it goes."""
    plan, begin, first_step = trainer.plan, time.monotonic(), trainer.step_count
    while trainer.progress < 1.0:
        loss = trainer.step()
        finished = trainer.progress >= 1.0
        if trainer.step_count % plan.report_every == 0 or finished:
            speed = (trainer.step_count - first_step) * plan.batch_tokens / (time.monotonic() - begin)
            done = f"step {trainer.step_count}, {min(trainer.progress, 1.0):.1%}"
            print(f"{done}: loss {loss:.3f}, {speed:,.0f} tokens/s", flush=True)
        if trainer.step_count % plan.save_every == 0 or finished:
            trainer.save(out / "state.pt")
            print(f"held-out loss {evaluate(trainer.model, held_out):.4f}", flush=True)


def prepare_stream(tokenizer: Tokenizer, stories: Stories, facts: Facts) -> TokenStream:
    """Return the training windows: each epoch is shuffled and encoded when it is reached."""

    def encode_epoch(epoch: int) -> npt.NDArray[np.uint16]:
        return encode_documents(tokenizer, epoch_documents(stories, facts, seed=epoch), random.Random(epoch))

    return TokenStream(encode_epoch)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train the embedded BitNet b1.58 model from scratch on the CPU.")
    parser.add_argument("--stories", type=Path, required=True, help="JSON with two lists of texts: train, val")
    parser.add_argument("--out", type=Path, required=True, help="folder for the state (resumed) and the checkpoint")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json to use; learned from the text when absent")
    parser.add_argument("--total-tokens", type=int, default=Plan.total_tokens)
    parser.add_argument("--batch-tokens", type=int, default=Plan.batch_tokens)
    parser.add_argument("--seed", type=int, default=1, help="of the first weights")
    return parser.parse_args()


def main() -> None:
    """Prepare the text, train, and write the checkpoint."""
    arguments = parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(arguments.seed)
    shape = ModelShape()
    plan = Plan(total_tokens=arguments.total_tokens, batch_tokens=arguments.batch_tokens)
    stories, facts = load_stories(arguments.stories), load_facts()
    tokenizer = (
        load_tokenizer(arguments.tokenizer)
        if arguments.tokenizer
        else train_tokenizer([*stories.train, *fact_documents(facts)], shape.vocab_size)
    )
    trainer = Trainer(shape, plan, prepare_stream(tokenizer, stories, facts))
    state = arguments.out / "state.pt"
    if state.exists():
        trainer.load(state)
    held_out = encode_documents(tokenizer, stories.held_out)
    train(trainer, held_out, arguments.out)
    write_checkpoint(arguments.out / "checkpoint", trainer.model, shape, tokenizer)
    loss = evaluate(trainer.model, held_out, n_windows=held_out.size)
    print(json.dumps({"tokens": trainer.step_count * plan.batch_tokens, "held_out_loss": round(loss, 4)}))


if __name__ == "__main__":
    main()
