// The page of radrep serve. Texts are set as text, never as markup.

const about = await (await fetch("/about")).json();
document.getElementById("model").textContent = about.name;
const PRIOR_IMAGE = "prior_image";
const TITLES = {indication: "Indication", comparison: "Comparison", prior_report: "Report of the prior study",
  [PRIOR_IMAGE]: "Films of the prior study"};

async function send(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    headers: {"Content-Type": "application/json"},
    body: JSON.stringify(body),
  });
  if (answer.ok) return answer;
  const text = await answer.text();
  let found;
  try { found = JSON.parse(text); } catch { found = {error: text || answer.statusText}; }
  throw new Error(found.error);
}

const ask = async (path, body) => (await send(path, body)).json();

// The rows of an answer, each as it comes.
async function* rows(path, body) {
  const reader = (await send(path, body)).body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const {value, done} = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) yield JSON.parse(line);
    }
  } finally {
    reader.cancel().catch(() => {}); // where it failed, the reading has thrown
  }
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
    const readsPrior = about.context.includes(PRIOR_IMAGE);
    const prior = `Prior study, ${readsPrior ? "which the model reads too" : "beside it"}`;
    this.find("h2").textContent = section.dataset.study == "study" ? "Study" : prior;
    this.prior = []; // films that the model reads with those of the study
    this.fields = [];
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
    this.clear(`Reading ${files.length} ${files.length == 1 ? "film" : "films"} ...`);
    try {
      const films = [];
      for (const file of files) films.push({name: file.name, data: await toBase64(file)});
      if (turn != this.turn) return;
      this.given = films;
      const written = await this.report();
      if (written !== null) this.after?.(written ? films : []);
    } catch (error) {
      if (turn == this.turn) this.say(error.message, true);
    }
  }

  clear(text) {
    clearTimeout(this.timer);
    for (const name of [".films", ".report", ".notes", ".sliders", ".kind"]) this.find(name).replaceChildren();
    for (const name of [".legend", ".copy", ".thresholds"]) this.find(name).hidden = true;
    this.say(text);
  }

  // Whether the report was written; null where a later request came between.
  async report() {
    const turn = ++this.turn;
    this.clear("Writing the report ...");
    try {
      let found = null;
      for await (const row of rows("/report", {films: this.given, context: this.texts(), prior: this.prior})) {
        if (turn != this.turn) return null;
        if (row.error) throw new Error(row.error);
        if (row.films) this.showFilms(row.films);
        if (row.sentence) this.find(".report").append(make("span", row.sentence.text, row.sentence.state), " ");
        found = row.report ?? found;
      }
      if (!found) throw new Error("The server ended before the report did.");
      this.found = found;
      this.thresholds = {...about.thresholds};
      const edited = Object.keys(this.thresholds).length ? await this.edited() : found.sentences;
      if (turn != this.turn) return null;
      this.showFilms(found.films);
      this.find(".notes").replaceChildren(...found.notes.map(note => make("li", note)));
      const read = found.context.map(kind => TITLES[kind].toLowerCase());
      this.say(`Report ${found.made}${read.length ? `; read beside the films: ${read.join(", ")}` : ""}.`);
      this.makeSliders();
      this.show(edited);
      return true;
    } catch (error) {
      if (turn != this.turn) return null;
      this.say(error.message, true);
      return false;
    }
  }

  showFilms(films) {
    this.find(".films").replaceChildren(...films.map(film => {
      const image = document.createElement("img");
      image.alt = "Film";
      image.src = film;
      return image;
    }));
  }

  // Fields for what the model reads beside the films; a change of one has the report written again.
  makeFields() {
    for (const kind of about.context) {
      if (kind == PRIOR_IMAGE) continue;
      const label = make("label", TITLES[kind]), field = document.createElement("textarea");
      field.rows = 2;
      field.maxLength = about.max_text;
      field.dataset.kind = kind;
      field.addEventListener("change", () => this.given && this.report());
      label.append(field);
      document.querySelector(".context").append(label);
      this.fields.push(field);
    }
  }

  texts() {
    return Object.fromEntries(this.fields.map(field => [field.dataset.kind, field.value]));
  }

  async edited() {
    const {text, probabilities} = this.found;
    const found = await ask("/edit", {text, probabilities, thresholds: this.thresholds});
    return found.sentences;
  }

  show(sentences) {
    const report = this.find(".report");
    const drafted = new Map(); // by text, those of one text in their order
    for (const each of this.found.sentences) drafted.set(each.text, [...(drafted.get(each.text) ?? []), each]);
    report.replaceChildren();
    for (const sentence of sentences) {
      const span = make("span", sentence.text, sentence.state, sentence.origin);
      const draft = sentence.origin == "generated" ? drafted.get(sentence.text)?.shift() : null;
      const what = sentence.observations.join(", ");
      span.tabIndex = 0;
      span.title = [what && `${sentence.state}: ${what}`, sentence.origin != "generated" && sentence.origin]
        .filter(Boolean).join("; ");
      const lay = () => this.lay(draft ?? null);
      const lift = () => this.lay(null, true);
      span.addEventListener("mouseenter", lay);
      span.addEventListener("focus", lay);
      span.addEventListener("mouseleave", lift);
      span.addEventListener("blur", lift);
      report.append(span, " ");
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
          const turn = ++this.turn;
          try {
            const edited = await this.edited();
            if (turn == this.turn) this.show(edited);
          } catch (error) {
            if (turn == this.turn) this.say(error.message, true);
          }
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

// A film that is dropped beside the fields would be opened by the browser in place of the page.
for (const kind of ["dragover", "drop"]) addEventListener(kind, event => event.preventDefault());
const [study, before] = [...document.querySelectorAll(".study")].map(section => new Study(section));
study.makeFields();
if (about.context.includes(PRIOR_IMAGE)) before.after = films => {
  study.prior = films;
  if (study.given) study.report();
};
document.body.dataset.ready = "yes";
