// LaTeX's everyday mathematics as MathML nodes: what reasoning models write, no more. An unknown command is shown as it is.
// Builds nodes by name from fixed lists; nothing of the model's text becomes a tag or an attribute.

const NS = "http://www.w3.org/1998/Math/MathML";
const DEEPEST = 40, LONGEST = 4000;

const pairs = (text) => new Map(text.trim().split(/\s+/).map((pair) => { const at = pair.indexOf("="); return [pair.slice(0, at), pair.slice(at + 1)]; }));
const LETTERS = pairs(`alpha=α beta=β gamma=γ delta=δ epsilon=ϵ varepsilon=ε zeta=ζ eta=η theta=θ vartheta=ϑ iota=ι kappa=κ lambda=λ mu=μ nu=ν xi=ξ pi=π
  rho=ρ sigma=σ tau=τ upsilon=υ phi=ϕ varphi=φ chi=χ psi=ψ omega=ω Gamma=Γ Delta=Δ Theta=Θ Lambda=Λ Xi=Ξ Pi=Π Sigma=Σ Upsilon=Υ Phi=Φ Psi=Ψ Omega=Ω
  infty=∞ partial=∂ nabla=∇ ell=ℓ hbar=ℏ emptyset=∅ varnothing=∅ aleph=ℵ angle=∠ degree=° circ=∘ Re=ℜ Im=ℑ top=⊤ bot=⊥`);
const SIGNS = pairs(`times=× cdot=⋅ div=÷ pm=± mp=∓ le=≤ leq=≤ ge=≥ geq=≥ ne=≠ neq=≠ approx=≈ equiv=≡ sim=∼ simeq=≃ cong=≅ propto=∝ ll=≪ gg=≫ to=→
  rightarrow=→ leftarrow=← leftrightarrow=↔ Rightarrow=⇒ implies=⟹ Leftarrow=⇐ Leftrightarrow=⇔ iff=⟺ mapsto=↦ in=∈ notin=∉ ni=∋ subset=⊂ subseteq=⊆
  supset=⊃ supseteq=⊇ cup=∪ cap=∩ setminus=∖ forall=∀ exists=∃ neg=¬ lnot=¬ land=∧ wedge=∧ lor=∨ vee=∨ oplus=⊕ otimes=⊗ mid=∣ nmid=∤ parallel=∥ perp=⊥
  therefore=∴ because=∵ ldots=… dots=… cdots=⋯ vdots=⋮ ddots=⋱ prime=′ star=⋆ ast=∗ bullet=• langle=⟨ rangle=⟩ lfloor=⌊ rfloor=⌋ lceil=⌈ rceil=⌉ vert=| Vert=‖
  colon=: lvert=| rvert=| lbrace={ rbrace=} uparrow=↑ downarrow=↓ triangle=△ square=□ blacksquare=■ checkmark=✓`);
const BIG = pairs("sum=∑ prod=∏ int=∫ iint=∬ oint=∮ bigcup=⋃ bigcap=⋂ bigoplus=⨁ coprod=∐");
const NAMES = new Set("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp lim max min sup inf gcd lcm det dim ker deg arg Pr mod".split(" "));
const UNDER = new Set(["lim", "max", "min", "sup", "inf", "sum", "prod", "bigcup", "bigcap", "bigoplus", "coprod"]);
const ACCENTS = pairs("hat=^ widehat=^ bar=¯ overline=¯ vec=→ tilde=~ widetilde=~ dot=˙ ddot=¨ overrightarrow=→");
const FONTS = pairs("mathbf=bold boldsymbol=bold bm=bold mathrm=upright operatorname=upright mathsf=upright mathit=italic mathbb=double mathcal=script mathscr=script");
const SPACES = new Map([[",", "0.17em"], [":", "0.22em"], [";", "0.28em"], ["!", "-0.17em"], [" ", "0.25em"], ["quad", "1em"], ["qquad", "2em"]]);
const FENCES = new Map([["pmatrix", "()"], ["bmatrix", "[]"], ["Bmatrix", "{}"], ["vmatrix", "||"], ["Vmatrix", "‖‖"], ["cases", "{"], ["matrix", ""],
  ["smallmatrix", ""], ["array", ""], ["aligned", ""], ["align", ""], ["align*", ""], ["gathered", ""], ["gather", ""], ["gather*", ""], ["equation", ""],
  ["equation*", ""], ["split", ""]]);
const DOUBLE = new Map([["C", "ℂ"], ["H", "ℍ"], ["N", "ℕ"], ["P", "ℙ"], ["Q", "ℚ"], ["R", "ℝ"], ["Z", "ℤ"], ["E", "𝔼"], ["F", "𝔽"], ["1", "𝟙"]]);

function el(name, ...children) {
  const node = document.createElementNS(NS, name);
  node.append(...children);
  return node;
}

/** A <math> node; null where the text is no mathematics we can read, so that the caller shows it as it is. */
export function mathNode(tex, block) {
  if (tex.length > LONGEST) return null;
  try {
    const parser = new Parser(tex);
    const math = el("math", parser.row(() => parser.over));
    if (block) math.setAttribute("display", "block");
    math.setAttribute("aria-label", tex.trim());
    return math;
  } catch (error) {
    if (error instanceof Unreadable) return null;
    throw error;
  }
}

class Unreadable extends Error {}

class Parser {
  constructor(tex) {
    this.tokens = tex.match(/\\[A-Za-z]+\*?|\\[^]|\d+(?:[.,]\d+)*|\s+|[^]/gu) ?? [];
    this.at = 0; this.depth = 0; this.font = "";
  }

  get over() { return this.at >= this.tokens.length; }
  get next() { return this.tokens[this.at]; }
  skip() { while (/^\s/.test(this.next ?? "")) this.at++; }

  /** Everything up to where `ends` says so, with its scripts. */
  row(ends) {
    if (++this.depth > DEEPEST) throw new Unreadable();
    const out = el("mrow");
    for (this.skip(); !ends(); this.skip()) {
      if (this.over) throw new Unreadable();
      out.append(this.scripted());
    }
    this.depth--;
    return out.childNodes.length === 1 ? out.firstChild : out;
  }

  scripted() {
    const name = this.next.startsWith("\\") ? this.next.slice(1) : "";
    const base = this.next === "^" || this.next === "_" ? el("mrow") : this.atom();
    let low = null, high = null, primes = "";
    for (this.skip(); ; this.skip()) {
      if (this.next === "'") { primes += "′"; this.at++; }
      else if (this.next === "_" && !low) { this.at++; low = this.argument(); }
      else if (this.next === "^" && !high) { this.at++; high = this.argument(); }
      else if (name && this.next === "\\limits") this.at++;
      else break;
    }
    if (primes) high = high ? el("mrow", el("mo", primes), high) : el("mo", primes);
    const [both, under, over] = UNDER.has(name) ? ["munderover", "munder", "mover"] : ["msubsup", "msub", "msup"];
    if (low && high) return el(both, base, low, high);
    return low ? el(under, base, low) : high ? el(over, base, high) : base;
  }

  /** A group in braces, or one thing. */
  argument() {
    this.skip();
    if (this.over || this.next === "}") throw new Unreadable();
    return this.next === "{" ? this.group() : this.atom();
  }

  group() {
    this.at++;
    const inside = this.row(() => this.next === "}");
    this.at++;
    return inside;
  }

  /** The text in braces, as it stands. */
  raw() {
    this.skip();
    if (this.next !== "{") throw new Unreadable();
    let text = "", open = 1;
    for (this.at++; ; this.at++) {
      if (this.over) throw new Unreadable();
      if (this.next === "{") open++;
      if (this.next === "}" && --open === 0) break;
      text += this.next;
    }
    this.at++;
    return text;
  }

  atom() {
    const token = this.tokens[this.at];
    if (token === "{") return this.group();
    if (token === "}" || token === "&") throw new Unreadable();
    this.at++;
    if (token.startsWith("\\")) return this.command(token.slice(1));
    if (/^\d/.test(token)) return el("mn", this.font === "double" ? DOUBLE.get(token) ?? token : token);
    if (/^\p{L}/u.test(token)) return this.letter(token);
    return el("mo", token === "-" ? "−" : token === "*" ? "∗" : token);
  }

  letter(text) {
    if (/[^\p{Script=Latin}\p{Script=Greek}]/u.test(text)) return el("mtext", text);
    const node = el("mi", this.font === "double" ? DOUBLE.get(text) ?? text : text);
    if (this.font === "upright") node.setAttribute("mathvariant", "normal");
    if (this.font) node.setAttribute("class", `math-${this.font}`);
    return node;
  }

  command(name) {
    if (LETTERS.has(name)) return this.letter(LETTERS.get(name));
    if (SIGNS.has(name)) return el("mo", SIGNS.get(name));
    if (BIG.has(name)) return this.big(BIG.get(name), name);
    if (NAMES.has(name)) return el("mi", name);
    if (SPACES.has(name)) return this.space(SPACES.get(name));
    if (ACCENTS.has(name)) return this.accent(ACCENTS.get(name));
    if (FONTS.has(name)) return this.inFont(FONTS.get(name));
    switch (name) {
      case "frac": case "dfrac": case "tfrac": case "cfrac": return el("mfrac", this.argument(), this.argument());
      case "binom": { const f = el("mfrac", this.argument(), this.argument()); f.setAttribute("linethickness", "0"); return el("mrow", el("mo", "("), f, el("mo", ")")); }
      case "sqrt": return this.root();
      case "text": case "textbf": case "textit": case "textrm": case "mbox": return el("mtext", this.raw().replace(/^ | $/g, "\u00a0"));
      case "boxed": case "fbox": { const box = el("mrow", this.argument()); box.setAttribute("class", "math-box"); return box; }
      case "underline": case "underbrace": case "overbrace": return this.argument();
      case "pmod": return el("mrow", this.space("0.4em"), el("mo", "("), el("mi", "mod"), this.space("0.3em"), this.argument(), el("mo", ")"));
      case "bmod": return el("mo", "mod");
      case "not": return el("mrow", this.argument(), el("mo", "\u0338"));
      case "left": return this.fenced();
      case "begin": return this.environment();
      case "displaystyle": case "textstyle": case "limits": case "nolimits": case "big": case "Big": case "bigg": case "Bigg":
      case "bigl": case "bigr": case "Bigl": case "Bigr": return el("mrow");
      case "\\": case "newline": return el("mspace");
      case "{": case "}": case "%": case "$": case "#": case "&": case "_": return el("mo", name);
      case "|": return el("mo", "‖");
      case "end": case "right": throw new Unreadable();
      default: return el("mtext", `\\${name}`);
    }
  }

  big(sign, name) {
    const node = el("mo", sign);
    if (UNDER.has(name)) node.setAttribute("movablelimits", "true");
    return node;
  }

  space(width) {
    const node = el("mspace");
    node.setAttribute("width", width);
    return node;
  }

  accent(sign) {
    const mark = el("mo", sign), node = el("mover", this.argument(), mark);
    node.setAttribute("accent", "true");
    if (sign.length && "¯→".includes(sign)) mark.setAttribute("stretchy", "true");
    return node;
  }

  inFont(font) {
    const before = this.font;
    this.font = font;
    const inside = this.argument();
    this.font = before;
    return inside;
  }

  root() {
    this.skip();
    if (this.next !== "[") return el("msqrt", this.argument());
    this.at++;
    const index = this.row(() => this.next === "]");
    this.at++;
    return el("mroot", this.argument(), index);
  }

  fence() {
    this.skip();
    const token = this.tokens[this.at++];
    if (token === undefined) throw new Unreadable();
    const node = el("mo", token === "." ? "" : SIGNS.get(token.slice(1)) ?? (token === "\\|" ? "‖" : token.replace(/^\\(?=[{}])/, "")));
    node.setAttribute("stretchy", "true");
    return node;
  }

  fenced() {
    const open = this.fence(), inside = this.row(() => this.next === "\\right");
    this.at++;
    return el("mrow", open, inside, this.fence());
  }

  environment() {
    const name = this.raw();
    if (!FENCES.has(name)) throw new Unreadable();
    this.skip();
    if (name === "array" && this.next === "{") this.raw();
    const table = el("mtable"), [open, close] = [...FENCES.get(name)];
    if (/^(cases|align|split)/.test(name)) table.setAttribute("class", "math-left");
    for (;;) {
      const row = el("mtr");
      for (;;) {
        row.append(el("mtd", this.row(() => this.next === "&" || this.next === "\\\\" || this.next === "\\end")));
        if (this.next !== "&") break;
        this.at++;
      }
      table.append(row);
      if (this.tokens[this.at++] === "\\end") break;
      this.skip();
      if (this.next === "\\end") { this.at++; break; }
    }
    this.raw();
    return el("mrow", ...(open ? [el("mo", open)] : []), table, ...(close ? [el("mo", close)] : []));
  }
}
