// The brush: white where nothing may change.

const $ = (id) => document.getElementById(id);

function dab(event) {
  const canvas = $("mask"), box = canvas.getBoundingClientRect(), pen = canvas.getContext("2d");
  pen.fillStyle = "#fff";
  pen.beginPath();
  pen.arc((event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height, Number($("brush-size").value) * canvas.width / 200, 0, 2 * Math.PI);
  pen.fill();
}

/** What was brushed as a PNG, white on black. */
function mask() {
  const canvas = $("mask"), flat = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height }), pen = flat.getContext("2d");
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, flat.width, flat.height);
  pen.drawImage(canvas, 0, 0);
  return new Promise((done) => flat.toBlob(done, "image/png"));
}

/** Wire the brush and its buttons; `changed` is given the mask whenever a stroke ends. Returns what begins anew, on a picture of [width, height]. */
export function brush(changed) {
  let drawing = false;
  const send = async () => changed(await mask());

  function clear([width, height]) {
    const canvas = $("mask");
    Object.assign(canvas, { width, height, hidden: true });
    canvas.removeAttribute("data-brush");
    $("brush").setAttribute("aria-pressed", "false");
  }

  function keepHalf(left) {
    const canvas = $("mask"), pen = canvas.getContext("2d");
    canvas.hidden = false;
    pen.fillStyle = "#fff";
    pen.fillRect(left ? 0 : canvas.width / 2, 0, canvas.width / 2, canvas.height);
    send();
  }

  $("brush").addEventListener("click", () => {
    const on = $("brush").getAttribute("aria-pressed") !== "true";
    $("brush").setAttribute("aria-pressed", String(on));
    $("mask").hidden = false;
    $("mask").toggleAttribute("data-brush", on);
  });
  $("clear").addEventListener("click", () => { clear([$("mask").width, $("mask").height]); send(); });
  $("keep-left").addEventListener("click", () => keepHalf(true));
  $("keep-right").addEventListener("click", () => keepHalf(false));
  $("mask").addEventListener("pointerdown", (event) => { drawing = true; $("mask").setPointerCapture(event.pointerId); dab(event); });
  $("mask").addEventListener("pointermove", (event) => { if (drawing) dab(event); });
  $("mask").addEventListener("pointerup", () => { drawing = false; send(); });
  return clear;
}
