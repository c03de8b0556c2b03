"""One episode as a GIF: gymnasium's own rendering, framed by the two logits of each state.

25 frames a second in real time, in one palette of 16 colours.
"""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from PIL import Image, ImageDraw, ImageFont

from tools.closed_loop import ENVIRONMENT, Step

FRAMES_PER_SECOND = 25
STEP_MS = 20  # CartPole-v1 advances by 0.02 s
STEPS_PER_FRAME = 1000 // FRAMES_PER_SECOND // STEP_MS

WIDTH, HEIGHT, MARGIN = 560, 336, 32
# All that changes lies in one column in the middle: a GIF stores the rectangle that changes.
LEFT, RIGHT = 155, 405
ABOVE, GROUND, BELOW = 145, 196, 16  # the part of the renderer's picture that is shown
BARS, BAR_SPACING, BAR_HEIGHT, BAR_REACH = 232, 18, 5, 100
DECISIONS, DECISIONS_REACH = 280, 12
CAPTION = 312

WHITE, INK, ACCENT = (255, 255, 255), (27, 31, 36), (31, 111, 235)
GREY, PALE = (118, 127, 139), (232, 235, 239)
RENDERED_POLE, RENDERED_AXLE, RENDERED_GROUND = (202, 152, 101), (129, 132, 203), 100

Colour = tuple[int, int, int]
Environment = gymnasium.Env[Any, Any]


def mix(one: Colour, other: Colour, share: float) -> Colour:
    r, g, b = (round(x + (y - x) * share) for x, y in zip(one, other, strict=True))
    return r, g, b


LIGHT = mix(WHITE, ACCENT, 0.4)

# Each colour of the recording, and the renderer's colour that it takes the place of.
SHADES = {
    WHITE: WHITE,
    INK: (0, 0, 0),
    ACCENT: RENDERED_POLE,
    PALE: RENDERED_AXLE,
    GREY: (128, 128, 128),
    **{mix(WHITE, INK, s): mix(WHITE, (0, 0, 0), s) for s in (0.35, 0.7)},
    **{mix(WHITE, ACCENT, s): mix(WHITE, RENDERED_POLE, s) for s in (0.4, 0.7)},
    mix(INK, ACCENT, 0.5): mix((0, 0, 0), RENDERED_POLE, 0.5),
    mix(PALE, ACCENT, 0.5): mix(RENDERED_AXLE, RENDERED_POLE, 0.5),
}


def palette(colours: list[Colour]) -> Image.Image:
    image = Image.new("P", (1, 1))
    image.putpalette([part for colour in colours for part in colour])
    return image


TRANSPARENT = len(SHADES)
PALETTE, RENDERED = palette(list(SHADES)), palette(list(SHADES.values()))


def record(steps: list[Step], seed: int, path: Path) -> None:
    """Write the GIF; its duration is that of the episode, to a frame."""
    frames = list(_frames(steps, seed))
    frames[0].save(
        path,
        format="GIF",
        save_all=True,
        append_images=frames[1:],
        duration=1000 // FRAMES_PER_SECOND,
        loop=0,
        palette=bytes(PALETTE.getpalette() or []),  # one for all frames
        transparency=TRANSPARENT,
        optimize=True,  # pixels that stay are transparent, which compresses well
    )


def _frames(steps: list[Step], seed: int) -> Iterator[Image.Image]:
    os.environ |= {"PYGAME_HIDE_SUPPORT_PROMPT": "1", "SDL_VIDEODRIVER": "dummy"}
    environment = gymnasium.make(ENVIRONMENT, render_mode="rgb_array", disable_env_checker=True)
    environment.reset()
    largest = max(abs(logit) for step in steps for logit in (step.left, step.right)) or 1.0
    still = _still_parts(seed)
    for number, step in enumerate(steps, 1):
        _draw_decision(ImageDraw.Draw(still), LEFT + (number - 1) // STEPS_PER_FRAME, step, largest)
        if number % STEPS_PER_FRAME and number < len(steps):
            continue
        frame = still.copy()
        _draw_stage(frame, environment, step)
        draw = ImageDraw.Draw(frame)
        _draw_bar(draw, BARS, step.left / largest, step.action == 0)
        _draw_bar(draw, BARS + BAR_SPACING, step.right / largest, step.action == 1)
        draw.text((LEFT + 34, CAPTION), str(number), INK, _font(14), anchor="ls")
        yield frame.quantize(palette=PALETTE, dither=Image.Dither.NONE)
    environment.close()


def _still_parts(seed: int) -> Image.Image:
    image = Image.new("RGB", (WIDTH, HEIGHT), WHITE)
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, 40), ENVIRONMENT, INK, _font(20), anchor="ls")
    draw.text((WIDTH - MARGIN, 40), f"seed {seed}", GREY, _font(14), anchor="rs")
    draw.text((LEFT, BARS), "left", GREY, _font(14), anchor="lm")
    draw.text((LEFT, BARS + BAR_SPACING), "right", GREY, _font(14), anchor="lm")
    draw.line((LEFT, DECISIONS, RIGHT - 1, DECISIONS), PALE)
    draw.text((LEFT, CAPTION), "step", GREY, _font(14), anchor="ls")
    draw.text((RIGHT, CAPTION), "right above, left below", GREY, _font(14), anchor="rs")
    return image


def _draw_stage(frame: Image.Image, environment: Environment, step: Step) -> None:
    """The renderer's picture of the state, in the colours of the recording."""
    cast(CartPoleEnv, environment.unwrapped).state = np.array(step.state)
    image = Image.fromarray(np.asarray(environment.render()))
    middle, ground = image.width // 2, image.height - RENDERED_GROUND
    half = WIDTH // 2 - MARGIN
    image = image.crop((middle - half, ground - ABOVE, middle + half, ground + BELOW))
    image = image.quantize(palette=RENDERED, dither=Image.Dither.NONE)
    image.putpalette(PALETTE.getpalette() or [])
    frame.paste(image.convert("RGB"), (MARGIN, GROUND - ABOVE))


def _draw_decision(draw: ImageDraw.ImageDraw, x: int, step: Step, largest: float) -> None:
    """One pixel wide: the larger logit, upwards for right and downwards for left."""
    height = round(max(step.left, step.right) / largest * DECISIONS_REACH)
    end = DECISIONS - height if step.action else DECISIONS + height
    draw.line((x, DECISIONS, x, end), ACCENT if step.action else LIGHT)


def _draw_bar(draw: ImageDraw.ImageDraw, y: int, share: float, chosen: bool) -> None:
    """A logit as a bar from zero, in the middle of its track; the chosen one has the accent."""
    colour = ACCENT if chosen else GREY
    middle, half = RIGHT - BAR_REACH, BAR_HEIGHT // 2
    if chosen:
        draw.polygon([(LEFT - 14, y - 4), (LEFT - 14, y + 4), (LEFT - 9, y)], colour)
    draw.rectangle((middle - BAR_REACH, y - half, RIGHT, y + half), PALE)
    end = middle + round(share * BAR_REACH)
    draw.rectangle((min(middle, end), y - half, max(middle, end), y + half), colour)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """The typeface that comes with Pillow, so that every machine writes the same frames."""
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))
