// Draws the cart-pole: an SVG in metres, the track at y = 0, the pole's axle in the cart.

import { STEP_SECONDS } from "./physics.js";

const WORLD_HEIGHT = 2.05; // m
const GROUND = 0.42; // m, below the track
const TRACK = 2.7; // m to each side that are worth seeing
const FREE = 0.7; // m that the cart moves before a narrow view follows it
const AXLE = 0.22; // m above the track
const AT_REST = Math.acos(-AXLE); // rad: the tip of a pole of 1 m lies on the track
const GRAVITY_OVER_LENGTH = 9.8 / ((0.5 * 4) / 3); // 1/s², of a pole on a cart that stands

export class Stage {
  isFallen = false;
  drawn = [0, 0, 0, 0]; // the state that the picture shows
  #target = this.drawn;
  #moves = 0; // milliseconds that the picture takes to the target
  #last = 0;
  #width = 2 * TRACK;
  #isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;

  constructor(svg) {
    this.svg = svg;
    const names = ["#world", "#cart", "#cart .body", "#pole"];
    [this.world, this.cart, this.body, this.pole] = names.map((name) => svg.querySelector(name));
    new ResizeObserver(([entry]) => this.#fit(entry.contentRect)).observe(svg);
  }

  /** Move to a state within a time (ms). */
  show(state, milliseconds) {
    this.svg.dataset.observation = state.join(" ");
    this.#target = state;
    this.#moves = milliseconds;
  }

  /** Whether a point of the window, in CSS pixels from its left edge, is left of the cart. */
  isLeftOfCart(clientX) {
    const { left, right } = this.body.getBoundingClientRect();
    return clientX < (left + right) / 2;
  }

  /** Draw the picture for a time (ms). */
  draw(now) {
    const elapsed = now - this.#last;
    this.#last = now;
    if (this.#moves > 0) {
      const share = Math.min(1, elapsed / this.#moves);
      this.drawn = this.drawn.map((value, i) => value + share * (this.#target[i] - value));
      this.#moves -= elapsed;
    } else if (this.isFallen) {
      this.#tumble(elapsed / 1000);
    }
    this.#place();
  }

  /** A fallen pole tips over until it lies on the track. That is only drawn, not simulated. */
  #tumble(seconds) {
    let [x, , θ, ω] = this.drawn;
    if (this.#isCalm) θ = Math.sign(θ) * AT_REST;
    for (let t = 0; t < Math.min(seconds, 0.1) && Math.abs(θ) < AT_REST; t += STEP_SECONDS / 4) {
      ω += (STEP_SECONDS / 4) * GRAVITY_OVER_LENGTH * Math.sin(θ);
      θ += (STEP_SECONDS / 4) * ω;
    }
    this.drawn = [x, 0, Math.max(-AT_REST, Math.min(AT_REST, θ)), ω];
  }

  #place() {
    const [x, , θ] = this.drawn;
    const reach = Math.max(0, TRACK - this.#width / 2);
    const beyond = Math.sign(x) * Math.max(0, Math.abs(x) - FREE);
    const camera = Math.max(-reach, Math.min(reach, beyond));
    setTransform(this.world, `translate(${-camera.toFixed(4)} 0)`);
    setTransform(this.cart, `translate(${x.toFixed(4)} 0)`);
    setTransform(this.pole, `rotate(${((θ * 180) / Math.PI).toFixed(3)} 0 ${-AXLE})`);
  }

  /** The picture fills its element: a wide one shows all of the track, a narrow one a part. */
  #fit({ width, height }) {
    this.#width = (WORLD_HEIGHT * width) / height;
    const top = GROUND - WORLD_HEIGHT;
    const box = [-this.#width / 2, top, this.#width, WORLD_HEIGHT];
    this.svg.setAttribute("viewBox", box.join(" "));
  }
}

function setTransform(element, transform) {
  if (element.getAttribute("transform") !== transform) element.setAttribute("transform", transform);
}
