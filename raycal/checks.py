"""Combinations of settings that no model or cluster can run, refused before either is asked."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from raycal.errors import UserError

if TYPE_CHECKING:
    from raycal.config import Config, Quantizer


def check(config: Config) -> None:
    """Refuse combinations that no model or cluster can run."""
    s, t = config.sessions, config.training
    if s.train + s.validation >= 1.0:
        raise UserError(f"sessions.train={s.train} + sessions.validation={s.validation}: must leave a share "
                        "for the test part; make their sum less than 1")
    if s.select == "all" and s.neurons:
        raise UserError(f"sessions.neurons={s.neurons} with sessions.select=all: say by what they are chosen, such as "
                        "sessions.select=variance, or drop sessions.neurons")
    if s.select != "all" and s.neurons < 2:
        raise UserError(f"sessions.select={s.select} with sessions.neurons={s.neurons}: say how many neurons to keep, "
                        "at least 2")
    if s.held_out or s.split == "animals":
        _check_held_out(config)
    _check_quantizer(config.quantizer)
    if config.windows.length < config.model.downsample:
        raise UserError(f"windows.length={config.windows.length} is shorter than the {config.model.downsample} frames "
                        f"of one {'code' if config.model.family == 'vqvae' else 'step of the network'}; lengthen it or "
                        "lower model.downsample")
    if t.gpus > 0 and t.workers > 1 and t.gpus != int(t.gpus):
        raise UserError(f"training.gpus={t.gpus} with training.workers={t.workers}: a fraction of a GPU serves one "
                        "worker only; give whole GPUs or --workers-per-trial 1")
    if t.device == "cpu" and t.gpus > 0:
        raise UserError(f"training.device=cpu with training.gpus={t.gpus}: drop one of the two")
    if t.precision == "fp16" and t.device == "cpu":
        raise UserError("training.precision=fp16 with training.device=cpu: use float32 or bf16 on a CPU")
    if config.model.family == "vae":
        _check_vae(config)
    if config.model.family == "diffusion":
        _check_diffusion(config)
    elif t.shard:
        raise UserError(f"training.shard=1 with model.family={config.model.family}: quantizers and identities are not "
                        "spread over workers; use training.shard=0, the workers then average gradients")
    elif config.diffusion.first_stage:
        raise UserError(f"--first-stage {config.diffusion.first_stage} with model.family={config.model.family}: only "
                        "a generative model works in the latents of another; use --space diffusion, or leave it out")


def _check_held_out(config: Config) -> None:
    s = config.sessions
    what = f"sessions.held_out={','.join(s.held_out)}" if s.held_out else "sessions.split=animals"
    if config.model.family != "vae":
        after = ", and use raycal apply --adapt on it afterwards" if config.model.family == "vqvae" else ""
        raise UserError(f"{what} with model.family={config.model.family}: a neuron has no identity there that could be "
                        f"fitted alone; leave the recording out of --sessions{after}")
    if s.mode == "first_only":
        raise UserError(f"{what} with sessions.mode=first_only: one session is used, so none can be held out; use "
                        "--set sessions.mode=separate")


def check_conditions(config: Config, behaviors: Sequence, still: Mapping[str, Sequence[str]] | None = None) -> None:
    """Refuse to condition a model on behaviour that not every session has, or that says nothing.

    still: by session, the behaviours that no train frame shows changing.
    """
    if config.model.family == "diffusion" and config.diffusion.guidance > 1.0 and not behaviors:
        raise UserError(f"diffusion.guidance={config.diffusion.guidance:g}: no behaviour is in every session, so there "
                        "is none to be guided by; give recordings with behaviour, or leave it at 1")
    if config.model.family != "vae" or config.vae.condition != "always":
        return
    if not behaviors:
        raise UserError("vae.condition=always: no behaviour is in every session, so there is none to condition on; "
                        "give recordings with behaviour, or use --set vae.condition=observed")
    for session, names in (still or {}).items():
        if names:
            others = [name for name in behaviors if name not in names]
            instead = f"--set sessions.behavior=[{','.join(others)}], " if others else ""
            raise UserError(f"vae.condition=always: session {session}: {', '.join(names)}: constant or not observed in "
                            f"every train block, so there is nothing to condition on; use {instead}--set "
                            "vae.condition=observed, or leave the session out")


def _check_quantizer(q: Quantizer) -> None:
    """Refuse options that a type of quantizer cannot have, with the reason."""
    if q.type == "grvq" and q.code_dim % q.groups:
        raise UserError(f"quantizer.code_dim={q.code_dim} cannot be cut into quantizer.groups={q.groups} equal "
                        f"parts; use a multiple, such as {q.groups * max(1, round(q.code_dim / q.groups))}")
    if q.type == "fsq" and q.codebook_size < 3:
        raise UserError("quantizer.codebook_size=2 with quantizer.type=fsq: rounding needs at least 3 values; make it "
                        "3 or more, or use quantizer.type=lfq")
    for name, value, plain in (("distance", q.distance, "euclidean"), ("gradient", q.gradient, "straight_through")):
        if value == plain:
            continue
        option = f"quantizer.{name}={value}"
        if q.type in ("fsq", "lfq"):
            raise UserError(f"{option} with quantizer.type={q.type}: it rounds one number at a time, so no latent has "
                            f"a code vector to compare or turn to; use {plain}")
        if q.code_dim == (q.groups if q.type == "grvq" else 1):
            raise UserError(f"{option} with codes of one dimension: a direction there is no more than a sign; use "
                            f"{plain} or raise quantizer.code_dim")
    if q.distance == "cosine" and q.type in ("rvq", "grvq") and q.levels > 1:
        raise UserError(f"quantizer.distance=cosine with quantizer.levels={q.levels}: a further level codes how much "
                        "is left over, and a direction does not say that; use euclidean or quantizer.levels=1")


def _check_vae(config: Config) -> None:
    vae, width = config.vae, config.model.width
    if config.model.downsample != 1:
        raise UserError(f"model.downsample={config.model.downsample} with model.family=vae: it has a latent a frame; "
                        "use model.downsample=1")
    if config.model.linear:
        raise UserError("model.linear=1 with model.family=vae: the linear path is the VQ-VAE's; use model.linear=0")
    if width % vae.heads or (vae.backbone == "transformer" and width % 2):
        raise UserError(f"model.width={width} cannot be cut into vae.heads={vae.heads} equal parts; use a multiple, "
                        f"such as {vae.heads * max(2, round(width / vae.heads))}")
    if config.search.rate_limit:
        raise UserError(f"search.rate_limit={config.search.rate_limit:g} with model.family=vae: it writes no codes, so "
                        "it has no rate in bits/s; leave it out")
    if vae.reconstruction == "poisson" and config.sessions.normalize != "none":
        raise UserError(f"vae.reconstruction=poisson with sessions.normalize={config.sessions.normalize}: counts are "
                        "not below 0, which normalised traces are; use --set sessions.normalize=none, or another loss")
    if vae.reconstruction == "poisson" and config.windows.noise:
        raise UserError(f"vae.reconstruction=poisson with windows.noise={config.windows.noise:g}: Gaussian noise makes "
                        "counts negative; use windows.noise=0")


def _check_diffusion(config: Config) -> None:
    """Refuse what no generative model can have."""
    d, model = config.diffusion, config.model
    if model.linear:
        raise UserError("model.linear=1 with model.family=diffusion: the linear path is the VQ-VAE's; use "
                        "model.linear=0, and diffusion.base=1 for the best linear denoiser")
    if config.search.rate_limit:
        raise UserError(f"search.rate_limit={config.search.rate_limit:g} with model.family=diffusion: it writes no "
                        "codes, so it has no rate in bits/s; leave it out")
    if config.sessions.normalize == "none":
        raise UserError("sessions.normalize=none with model.family=diffusion: noise has a variance of 1, and traces "
                        "have to match it; use sessions.normalize=zscore")
    if config.training.precision == "bf16" and config.training.device == "cpu":
        raise UserError("training.precision=bf16 with training.device=cpu: mixed precision is for a GPU; use "
                        "training.precision=float32, or leave training.device out")
    if d.core == "dit" and not d.heads:
        raise UserError("diffusion.heads=0 with diffusion.core=dit: a transformer is attention; use 1 or more, or "
                        "diffusion.core=unet")
    step = 2 * d.heads
    if step and model.width % step:
        raise UserError(f"model.width={model.width} with diffusion.heads={d.heads}: each head needs an even number of "
                        f"channels; use a multiple of {step}, such as {step * max(1, round(model.width / step))}")
