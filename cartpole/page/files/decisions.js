// The decision map: which way the policy pushes at each angle and angular velocity.

import { MAX_ANGLE } from "./physics.js";
import { askMany } from "./service.js";

const SIDE = 41; // cells
const MAX_RATE = 2; // rad/s, the upper edge
const PERIOD = 250; // ms between two drawings, at least
const MAX_SHARE = 0.1; // of the time that questions about the map may take
const LIMIT = 1000; // ms for an answer
const UNKNOWN = -1;

// From the upper left; angle grows to the right, angular velocity upwards.
const CELLS = Array.from({ length: SIDE * SIDE }, (_, i) => [
  MAX_ANGLE * (((i % SIDE) / (SIDE - 1)) * 2 - 1),
  MAX_RATE * (1 - (Math.floor(i / SIDE) / (SIDE - 1)) * 2),
]);

export class DecisionMap {
  #actions = new Int8Array(CELLS.length).fill(UNKNOWN);
  #asked = null; // position and velocity of the last batch
  #due = 0; // when the map may be renewed

  constructor(figure) {
    [this.left, this.right, this.dot] = ["path.left", "path.right", ".dot"].map((name) =>
      figure.querySelector(name),
    );
    this.slice = figure.querySelector("#slice");
  }

  /** Show the present state as a dot; beyond the map, at its edge. */
  point([, , θ, ω]) {
    this.dot.setAttribute("cx", toCell(θ / MAX_ANGLE));
    this.dot.setAttribute("cy", toCell(-ω / MAX_RATE));
  }

  /** Ask for all decisions at the cart's position and velocity, if they are due. */
  async renew([x, v]) {
    const start = performance.now();
    const isSame = this.#asked?.[0] === x && this.#asked[1] === v;
    if (isSame || start < this.#due) return;
    try {
      this.#actions.set(await askMany(CELLS.map(([θ, ω]) => [x, v, θ, ω]), LIMIT));
      this.#asked = [x, v];
      this.slice.textContent = "the present position and velocity";
      this.#draw();
    } catch {
      // The next question of the control loop finds out what is wrong.
    }
    this.#due = start + Math.max(PERIOD, (performance.now() - start) / MAX_SHARE);
  }

  #draw() {
    this.left.setAttribute("d", this.#path(0));
    this.right.setAttribute("d", this.#path(1));
  }

  /** The cells of an action, as one rectangle for each run in a row. */
  #path(action) {
    let path = "";
    for (let i = 0, end = 0; i < CELLS.length; i = end) {
      const rowEnd = i - (i % SIDE) + SIDE;
      for (end = i + 1; end < rowEnd && this.#actions[end] === this.#actions[i]; end += 1);
      if (this.#actions[i] !== action) continue;
      path += `M${i % SIDE} ${Math.floor(i / SIDE)}h${end - i}v1h${i - end}z`;
    }
    return path;
  }
}

/** From −1 … 1 to the middle of a cell. */
function toCell(share) {
  return ((Math.max(-1, Math.min(1, share)) + 1) / 2) * (SIDE - 1) + 0.5;
}
