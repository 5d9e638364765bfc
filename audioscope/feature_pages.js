// Plays clips from where a picture is clicked, moves a cursor over it, and filters the index.

const players = [...document.querySelectorAll("audio")];
for (const figure of document.querySelectorAll("figure")) {
  const audio = figure.querySelector("audio");
  const plot = figure.querySelector(".plot");
  const cursor = plot.querySelector("i");
  const from = seconds => {
    const start = () => { audio.currentTime = seconds; audio.play(); };
    if (audio.readyState > 0) start();
    else { audio.addEventListener("loadedmetadata", start, { once: true }); audio.load(); }
  };
  plot.addEventListener("click", event => {
    const share = (event.clientX - plot.getBoundingClientRect().left) / plot.clientWidth;
    const jump = () => from(share * audio.duration);
    if (audio.readyState > 0) jump();
    else { audio.addEventListener("loadedmetadata", jump, { once: true }); audio.load(); }
  });
  figure.querySelector("button")?.addEventListener("click", event => from(Number(event.currentTarget.dataset.from)));
  audio.addEventListener("play", () => players.forEach(other => other !== audio && other.pause()));
  audio.addEventListener("timeupdate", () => {
    cursor.style.opacity = 1;
    cursor.style.left = `${100 * audio.currentTime / audio.duration}%`;
  });
}

const search = document.getElementById("search");
if (search) {
  const rows = [...document.querySelectorAll("#rows tr")].map(row => [row, row.textContent.toLowerCase()]);
  const count = document.getElementById("count");
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const [row, text] of rows) {
      row.hidden = !words.every(word => text.includes(word));
      shown += !row.hidden;
    }
    count.textContent = `${shown} of ${rows.length} features`;
  };
  search.addEventListener("input", filter);
  filter();
}
