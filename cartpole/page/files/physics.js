// The cart-pole of gymnasium's CartPole-v1: its equations, its constants, its Euler steps.
// gymnasium/envs/classic_control/cartpole.py; a state is [x m, v m/s, θ rad, ω rad/s].

const GRAVITY = 9.8; // m/s²
const POLE_MASS = 0.1; // kg
const TOTAL_MASS = POLE_MASS + 1.0; // kg, with the cart
const HALF_LENGTH = 0.5; // m, of the pole
const POLE_MOMENT = POLE_MASS * HALF_LENGTH; // kg m
const FORCE = 10.0; // N

export const STEP_SECONDS = 0.02;
export const MAX_POSITION = 2.4; // m
export const MAX_ANGLE = (12 * 2 * Math.PI) / 360; // rad
const MAX_START = 0.05;

/** The state one step later. The action is 0 (left), 1 (right) or null (no force). */
export function step([x, v, θ, ω], action) {
  const force = action === null ? 0 : action === 1 ? FORCE : -FORCE;
  const cos = Math.cos(θ);
  const sin = Math.sin(θ);
  const push = (force + POLE_MOMENT * (ω * ω) * sin) / TOTAL_MASS;
  const angular =
    (GRAVITY * sin - cos * push) /
    (HALF_LENGTH * (4 / 3 - (POLE_MASS * (cos * cos)) / TOTAL_MASS));
  const linear = push - (POLE_MOMENT * angular * cos) / TOTAL_MASS;
  return [
    x + STEP_SECONDS * v,
    v + STEP_SECONDS * linear,
    θ + STEP_SECONDS * ω,
    ω + STEP_SECONDS * angular,
  ];
}

export function hasFallen([x, , θ]) {
  return Math.abs(x) > MAX_POSITION || Math.abs(θ) > MAX_ANGLE;
}

/** A state to start from: four numbers, uniform within ±0.05. */
export function startState() {
  return Array.from({ length: 4 }, () => MAX_START * (2 * Math.random() - 1));
}
