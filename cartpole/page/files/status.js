// What is said when something happens, and only then: the live region.

const SHOWN = 3000; // ms for what is over

export class Status {
  #state = "";
  #timer = 0;

  constructor(element) {
    this.element = element;
  }

  show(state, steps, isPolicyOn) {
    if (state === this.#state && state !== "fallen") return;
    const before = this.#state;
    this.#state = state;
    if (state === "balancing") this.#say(before === "disconnected" ? "Connected again." : "", true);
    else this.#say(this.#sentence(state, steps, isPolicyOn));
  }

  #sentence(state, steps, isPolicyOn) {
    if (state === "paused") return "Time stands still.";
    if (state === "disconnected") return "No answer from the service. The pole waits; trying again.";
    const next = isPolicyOn ? "Starting anew in 2 seconds." : "Reset starts anew.";
    return `The pole fell after ${steps} ${steps === 1 ? "step" : "steps"}. ${next}`;
  }

  #say(text, isPassing = false) {
    clearTimeout(this.#timer);
    if (this.element.textContent !== text) this.element.textContent = text;
    if (isPassing && text) this.#timer = setTimeout(() => this.#say(""), SHOWN);
  }
}
