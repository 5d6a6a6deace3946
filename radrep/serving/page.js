// The page of radrep serve. Texts are set as text, never as markup.

const about = await (await fetch("/about")).json();
document.getElementById("model").textContent = about.name;
const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
const pause = calm ? 0 : 250; // ms between two sentences

async function ask(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    headers: {"Content-Type": "application/json"},
    body: JSON.stringify(body),
  });
  const text = await answer.text();
  let found;
  try { found = JSON.parse(text); } catch { found = {error: text || answer.statusText}; }
  if (!answer.ok) throw new Error(found.error);
  return found;
}

function toBase64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error(`${file.name} cannot be read`));
    reader.readAsDataURL(file);
  });
}

function make(tag, text, ...classes) {
  const element = document.createElement(tag);
  element.textContent = text;
  element.classList.add(...classes.filter(Boolean));
  return element;
}

class Study {
  constructor(section) {
    section.append(document.getElementById("study").content.cloneNode(true));
    this.find = name => section.querySelector(name);
    const name = section.dataset.study == "study" ? "Study" : "Prior study, beside it";
    this.find("h2").textContent = name;
    const drop = this.find(".drop"), input = this.find("input[type=file]");
    input.addEventListener("change", () => this.read([...input.files]));
    for (const kind of ["dragenter", "dragover"]) drop.addEventListener(kind, event => {
      event.preventDefault();
      drop.classList.add("over");
    });
    drop.addEventListener("dragleave", () => drop.classList.remove("over"));
    drop.addEventListener("drop", event => {
      event.preventDefault();
      drop.classList.remove("over");
      this.read([...event.dataTransfer.files]);
    });
    this.find(".copy").addEventListener("click", () => this.copy());
    this.turn = 0; // which of several requests is the last
  }

  say(text, isError = false) {
    const status = this.find(".status");
    status.textContent = text;
    status.classList.toggle("error", isError);
  }

  async read(files) {
    if (!files.length) return;
    const turn = ++this.turn;
    for (const name of [".films", ".report", ".notes", ".sliders", ".kind"]) this.find(name).replaceChildren();
    for (const name of [".legend", ".copy", ".thresholds"]) this.find(name).hidden = true;
    this.say(`Reading ${files.length} ${files.length == 1 ? "film" : "films"} ...`);
    try {
      const films = [];
      for (const file of files) films.push({name: file.name, data: await toBase64(file)});
      const found = await ask("/report", {films});
      if (turn != this.turn) return;
      this.found = found;
      this.thresholds = {...about.thresholds};
      for (const film of found.films) {
        const image = document.createElement("img");
        image.alt = "Film";
        image.src = film;
        this.find(".films").append(image);
      }
      this.find(".notes").replaceChildren(...found.notes.map(note => make("li", note)));
      this.say(`Report ${found.made}.`);
      this.makeSliders();
      await this.show(Object.keys(this.thresholds).length ? await this.edited() : found.sentences, pause);
    } catch (error) {
      if (turn == this.turn) this.say(error.message, true);
    }
  }

  async edited() {
    const {text, probabilities} = this.found;
    const found = await ask("/edit", {text, probabilities, thresholds: this.thresholds});
    return found.sentences;
  }

  async show(sentences, wait) {
    const turn = ++this.turn, report = this.find(".report");
    const drafted = new Map(this.found.sentences.map(each => [each.text, each]));
    report.replaceChildren();
    for (const sentence of sentences) {
      const span = make("span", sentence.text, sentence.state, sentence.origin);
      const draft = drafted.get(sentence.text);
      const what = sentence.observations.join(", ");
      span.tabIndex = 0;
      span.title = [what && `${sentence.state}: ${what}`, sentence.origin != "generated" && sentence.origin]
        .filter(Boolean).join("; ");
      const lay = () => this.lay(sentence.origin == "generated" && draft ? draft : null);
      const lift = () => this.lay(null, true);
      span.addEventListener("mouseenter", lay);
      span.addEventListener("focus", lay);
      span.addEventListener("mouseleave", lift);
      span.addEventListener("blur", lift);
      report.append(span, " ");
      if (wait) await new Promise(resolve => setTimeout(resolve, wait));
      if (turn != this.turn) return;
    }
    this.find(".legend").hidden = this.find(".copy").hidden = false;
  }

  lay(sentence, plain = false) {
    const maps = sentence?.maps ?? [];
    [...this.find(".films").children].forEach((image, place) => {
      image.src = maps[place] ?? this.found.films[place];
    });
    const none = sentence ? "no map for this sentence" : "no map: the model did not write this sentence";
    this.find(".kind").textContent = plain ? "" : maps.length ? `Colours: ${sentence.kind}. They localise no lesion.` : none;
  }

  makeSliders() {
    const names = Object.keys(this.found.probabilities).filter(name => this.found.can_edit.includes(name));
    this.find(".thresholds").hidden = !names.length;
    for (const name of names) {
      const label = make("label", ""), words = make("span", ""), slider = document.createElement("input");
      Object.assign(slider, {type: "range", min: 0, max: 1, step: 0.01});
      slider.value = this.thresholds[name] ?? about.suggested[name] ?? 0.5;
      slider.setAttribute("aria-label", `Threshold of ${name}`);
      const write = () => {
        const own = name in this.thresholds ? `threshold ${Number(slider.value).toFixed(2)}` : "not edited by";
        words.textContent = `${name}: probability ${this.found.probabilities[name].toFixed(2)}, ${own}`;
      };
      slider.addEventListener("input", () => {
        this.thresholds[name] = Number(slider.value);
        write();
        clearTimeout(this.timer);
        this.timer = setTimeout(async () => {
          try { await this.show(await this.edited(), 0); } catch (error) { this.say(error.message, true); }
        }, 120);
      });
      write();
      label.append(words, slider);
      this.find(".sliders").append(label);
    }
  }

  async copy() {
    const text = [...this.find(".report").children].map(each => each.textContent).join(" ");
    try {
      await navigator.clipboard.writeText(text);
      this.say("Copied.");
    } catch {
      getSelection().selectAllChildren(this.find(".report"));
      this.say("The browser does not let a page copy here: the text is selected, press Ctrl-C.");
    }
  }
}

for (const section of document.querySelectorAll(".study")) new Study(section);
document.body.dataset.ready = "yes";
