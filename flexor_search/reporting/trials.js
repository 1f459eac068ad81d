// The table of all measurements: a click on a heading sorts by it, words and bounds filter.
const table = document.getElementById("trials");
if (table) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const titles = heads.map((head) => head.textContent.trim());
  const value = (cell) => cell.dataset.v ?? cell.textContent;
  const rows = [...body.rows].map((row) => ({
    row,
    text: row.textContent.toLowerCase() + " " + [...row.cells].map((cell) => cell.textContent.toLowerCase()).join(" "),
    values: [...row.cells].map(value),
  }));
  const numeric = titles.map((_, i) => rows.every(({ values }) => values[i] === "" || !Number.isNaN(Number(values[i]))));

  // What is empty comes last, up and down.
  const compare = (i, sign) => (a, b) => {
    const [x, y] = [a.values[i], b.values[i]];
    if (x === "" || y === "") return (x === "") - (y === "");
    return sign * (numeric[i] ? x - y : x.localeCompare(y, "en", { numeric: true }));
  };
  heads.forEach((head, i) => head.firstElementChild.addEventListener("click", () => {
    const up = head.ariaSort === "ascending" || (head.ariaSort === "none" && numeric[i] && i > 0);
    heads.forEach((other) => (other.ariaSort = "none"));
    head.ariaSort = up ? "descending" : "ascending";
    rows.sort(compare(i, up ? -1 : 1));
    body.append(...rows.map(({ row }) => row));
  }));

  // "bits<0.5" bounds the first column whose heading begins so; every other word must stand somewhere in the row.
  const bound = (word) => {
    const [, name, sign, limit] = word.match(/^([a-z]+)(<=|>=|<|>|=)(-?[\d.]+)$/) || [];
    const i = name ? titles.findIndex((title) => title.startsWith(name)) : -1;
    if (i < 0) return ({ text }) => text.includes(word);
    const holds = { "<": (x) => x < limit, ">": (x) => x > limit, "<=": (x) => x <= limit, ">=": (x) => x >= limit, "=": (x) => x === +limit }[sign];
    return ({ values }) => values[i] !== "" && holds(Number(values[i]));
  };
  const search = document.getElementById("filter");
  const choices = [...document.querySelectorAll(".filters select")];
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean).map(bound);
    const picked = choices.filter((choice) => choice.value).map((choice) => [titles.indexOf(choice.dataset.column), choice.value]);
    let left = 0;
    for (const entry of rows) {
      const stays = words.every((holds) => holds(entry)) && picked.every(([i, text]) => entry.values[i] === text);
      entry.row.hidden = !stays;
      left += stays;
    }
    const all = `${rows.length.toLocaleString("en")} training${rows.length === 1 ? "" : "s"}`;
    document.getElementById("shown").value = left === rows.length ? all : `${left.toLocaleString("en")} of ${all}`;
  };
  search.addEventListener("input", filter);
  choices.forEach((choice) => choice.addEventListener("change", filter));
}
