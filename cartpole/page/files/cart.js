// The cart-pole that this page balances: its state, the pushes that wait, the steps it has stood.

import { hasFallen, startState, step } from "./physics.js";

export class Cart {
  state = startState(); // replaced as a whole: the same array is the same state
  steps = 0;
  best = 0;
  isFallen = false;
  #pushes = [];

  restart() {
    this.state = startState();
    this.steps = 0;
    this.isFallen = false;
    this.#pushes = [];
  }

  /** Add to the velocity (m/s) and to the angle (rad), once, before the next question. */
  push(velocity, angle) {
    if (!this.isFallen) this.#pushes.push([velocity, angle]);
  }

  /** Apply the pushes that wait. A push too many is a fall. */
  applyPushes() {
    for (const [velocity, angle] of this.#pushes.splice(0)) {
      const [x, v, θ, ω] = this.state;
      this.state = [x, v + velocity, θ + angle, ω];
    }
    this.isFallen ||= hasFallen(this.state);
  }

  /** One step with an action: 0 (left), 1 (right) or null (no force). */
  step(action) {
    this.state = step(this.state, action);
    this.isFallen = hasFallen(this.state);
    if (this.isFallen) return;
    this.steps += 1;
    this.best = Math.max(this.best, this.steps);
  }
}
