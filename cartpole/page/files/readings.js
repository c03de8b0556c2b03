// Numbers beside the picture: the two logits as bars, the probability of the action, round trips.

import { RoundTrips } from "./trips.js";

const PERIOD = 100; // ms: digits that change 50 times a second can't be read
const LEAST_SCALE = 1;
const DECAY = 0.98; // each PERIOD

export class Readings {
  #answer = null; // the last one that is not drawn yet
  #scale = LEAST_SCALE; // the logit of a full bar: the largest one of late
  #drawn = 0;

  constructor(byId) {
    this.byId = byId;
    this.trips = new RoundTrips(byId("trips"));
  }

  add(answer, milliseconds) {
    this.#answer = answer;
    this.trips.add(milliseconds);
  }

  /** Draw what is new, ten times a second, or at once. */
  draw(now, isUrgent = false) {
    if (!this.#answer || (!isUrgent && now - this.#drawn < PERIOD)) return;
    this.#drawLogits(this.#answer);
    const { p50, p99 } = this.trips.draw();
    this.byId("p50").textContent = p50.toFixed(1);
    this.byId("p99").textContent = p99.toFixed(1);
    this.#answer = null;
    this.#drawn = now;
  }

  #drawLogits({ left, right }) {
    this.#scale = Math.max(LEAST_SCALE, DECAY * this.#scale, Math.abs(left), Math.abs(right));
    this.#drawLogit("left", left, left >= right);
    this.#drawLogit("right", right, left < right);
    const probability = 1 / (1 + Math.exp(-Math.abs(left - right)));
    this.byId("probability").textContent = probability.toFixed(3);
  }

  #drawLogit(name, logit, isChosen) {
    const row = this.byId(`${name}-row`);
    row.classList.toggle("chosen", isChosen);
    row.querySelector(".fill").style.transform = `scaleX(${logit / this.#scale})`;
    this.byId(name).textContent = logit.toFixed(3);
  }
}
