// The decision map: which way the policy pushes at each angle and angular velocity.

import { MAX_ANGLE } from "./physics.js";
import { ask, askMany, hasBatchRoute } from "./service.js";

const SIDE = 41; // cells
const MAX_RATE = 2; // rad/s, the upper edge
const PERIOD = 250; // ms between two drawings
const LIMIT = 1000; // ms for an answer
const LONGEST_WAIT = 100; // ms between two single questions, on a machine too slow for gaps
const UNKNOWN = -1;
const COARSEST = 8; // cells

// From the upper left; angle grows to the right, angular velocity upwards.
const CELLS = Array.from({ length: SIDE * SIDE }, (_, i) => [
  MAX_ANGLE * (((i % SIDE) / (SIDE - 1)) * 2 - 1),
  MAX_RATE * (1 - (Math.floor(i / SIDE) / (SIDE - 1)) * 2),
]);

// Single questions go from coarse to fine: [cell, side of the square that it stands for until then].
const ORDER = [COARSEST, 4, 2, 1].flatMap((stride) =>
  CELLS.flatMap((_, i) => {
    const both = (i % SIDE) | Math.floor(i / SIDE); // a multiple of what both are multiples of
    return both % stride || (stride < COARSEST && both % (2 * stride) === 0) ? [] : [[i, stride]];
  }),
);

export class DecisionMap {
  #actions = new Int8Array(CELLS.length).fill(UNKNOWN);
  #known = 0;
  #asMany = hasBatchRoute;
  #isAsking = false;
  #asked = null; // position and velocity of the last batch
  #renewed = 0;
  #trip = 0; // ms that the last single question took
  #answered = 0; // when it was answered

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

  /**
   * Ask for decisions. In batches: for all, at the cart's position and velocity, at most every
   * 250 ms. Else one by one, at 0 and 0, while gap(), in milliseconds, is left; no failure matters,
   * the control loop finds it too.
   */
  async fill([x, v], gap) {
    if (this.#asMany) {
      void this.#renew(x, v);
      return;
    }
    while (this.#known < CELLS.length && this.#fits(gap())) {
      if (!(await this.#askNext())) return;
    }
  }

  #fits(gap) {
    const isLate = performance.now() - this.#answered > LONGEST_WAIT;
    return gap > (isLate ? 0 : 2 * this.#trip + 2);
  }

  async #renew(x, v) {
    const now = performance.now();
    const isSame = this.#asked?.[0] === x && this.#asked[1] === v;
    if (this.#isAsking || isSame || now - this.#renewed < PERIOD) return;
    this.#isAsking = true;
    this.#renewed = now;
    try {
      this.#actions.set(await askMany(CELLS.map(([θ, ω]) => [x, v, θ, ω]), LIMIT));
      this.#asked = [x, v];
      this.slice.textContent = "the present position and velocity";
      this.#draw();
    } catch (error) {
      this.#asMany = !error.isNoRoute;
    } finally {
      this.#isAsking = false;
    }
  }

  async #askNext() {
    const start = performance.now();
    const [cell, stride] = ORDER[this.#known];
    const answer = await ask([0, 0, ...CELLS[cell]], LIMIT).catch(() => null);
    this.#answered = performance.now();
    this.#trip = this.#answered - start;
    if (!answer) return false;
    this.#fillSquare(cell, stride, answer.left < answer.right ? 1 : 0);
    this.#known += 1;
    if (this.#known === CELLS.length || start - this.#renewed >= PERIOD) {
      this.#renewed = start;
      this.#draw();
    }
    return true;
  }

  #fillSquare(cell, stride, action) {
    const width = Math.min(stride, SIDE - (cell % SIDE));
    for (let i = cell; i < Math.min(CELLS.length, cell + stride * SIDE); i += SIDE) {
      this.#actions.fill(action, i, i + width);
    }
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
