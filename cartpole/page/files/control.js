// The control loop: 50 times a second a question, its answer, a step. A step is taken only with the
// answer to exactly its state, so a late answer stops time. There is one question at a time.

import { STEP_SECONDS } from "./physics.js";
import { ask } from "./service.js";

// Milliseconds.
const PERIOD = 1000 * STEP_SECONDS;
const SLOW_PERIOD = 100;
const MAX_LAG = 100; // what is further behind is dropped, not caught up
const ANSWER_LIMIT = 1000;
const RETRY_LIMIT = 800; // shorter, for at least one try a second
const RETRY_PERIOD = 500;
const RESTART_DELAY = 2000;

export class Control {
  isPaused = false;
  isHidden = false;
  isSlow = false;
  isPolicyOn = true;
  #isConnected = true;
  #due = 0; // when the next step is to be taken
  #wake = () => {};

  /**
   * The view is told what happens: showCart() after each change of the cart, showAnswer(answer, ms)
   * after each answer, showState() when `state` may have changed. `fillGap(gap)` may ask questions of
   * its own after a step, while gap(), in milliseconds, is left.
   */
  constructor(cart, view, fillGap) {
    this.cart = cart;
    this.view = view;
    this.fillGap = fillGap;
  }

  get state() {
    if (this.isPaused) return "paused";
    if (this.cart.isFallen) return "fallen";
    return this.isPolicyOn && !this.#isConnected ? "disconnected" : "balancing";
  }

  get period() {
    return this.isSlow ? SLOW_PERIOD : PERIOD;
  }

  /** Milliseconds to the next question; 0 if none is to be asked. */
  get #gap() {
    const isAsking = this.isPolicyOn && !this.#rests && !this.cart.isFallen;
    return isAsking ? this.#due - performance.now() : 0;
  }

  get #rests() {
    return this.isPaused || this.isHidden || (this.cart.isFallen && !this.isPolicyOn);
  }

  /** Change isPaused, isHidden, isSlow or isPolicyOn. */
  set(change) {
    Object.assign(this, change);
    if (!this.isPolicyOn) this.#isConnected = true; // until the next question tells
    this.#changed();
  }

  reset() {
    this.cart.restart();
    this.view.showCart();
    this.#changed();
  }

  push(velocity, angle) {
    this.cart.push(velocity, angle);
    if (this.isPaused) this.#applyPushes();
  }

  async run() {
    this.view.showCart();
    this.view.showState();
    for (;;) {
      if (this.#rests) {
        await this.#sleep(Infinity);
        this.#due = performance.now();
      } else if (this.cart.isFallen) {
        if (await this.#sleep(RESTART_DELAY)) this.reset();
        this.#due = performance.now();
      } else if (await this.#sleep(this.#due - performance.now())) {
        await this.#turn();
      }
    }
  }

  async #turn() {
    this.#applyPushes();
    if (this.cart.isFallen) return;
    const { state } = this.cart;
    const asks = this.isPolicyOn;
    const action = asks ? await this.#decide(state) : null;
    if (asks && action === null) return; // no answer
    // Paused, hidden, reset or switched meanwhile: the answer is to a question no longer asked.
    if (this.#rests || this.isPolicyOn !== asks || this.cart.state !== state) return;
    this.cart.step(action);
    this.#showCart();
    this.#due += this.period;
    if (performance.now() - this.#due > MAX_LAG) this.#due = performance.now();
    await this.fillGap(() => this.#gap);
  }

  /** The policy's action in a state, or null without an answer. */
  async #decide(state) {
    const start = performance.now();
    try {
      const answer = await ask(state, this.#isConnected ? ANSWER_LIMIT : RETRY_LIMIT);
      this.#setConnected(true);
      this.view.showAnswer(answer, performance.now() - start);
      return answer.left < answer.right ? 1 : 0;
    } catch {
      if (this.isPolicyOn && !this.#rests) this.#setConnected(false);
      this.#due = Math.max(performance.now(), start + RETRY_PERIOD);
      return null;
    }
  }

  #applyPushes() {
    const { state } = this.cart;
    this.cart.applyPushes();
    if (this.cart.state !== state) this.#showCart();
  }

  #setConnected(isConnected) {
    if (this.#isConnected === isConnected) return;
    this.#isConnected = isConnected;
    this.view.showState();
  }

  #showCart() {
    this.view.showCart();
    if (this.cart.isFallen) this.view.showState();
  }

  #changed() {
    this.view.showState();
    this.#wake();
  }

  /** Sleep; false if `#changed` ended the sleep. */
  #sleep(milliseconds) {
    return new Promise((resolve) => {
      const timer =
        milliseconds === Infinity ? 0 : setTimeout(resolve, Math.max(0, milliseconds), true);
      this.#wake = () => {
        clearTimeout(timer);
        resolve(false);
      };
    });
  }
}
