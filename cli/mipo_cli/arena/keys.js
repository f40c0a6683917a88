// Keys press the page's own buttons; without scripts the buttons do it alone.
let sent = false;
const keys = document.querySelector("#keys");
const on = keys.querySelector("input");
keys.hidden = false;
on.checked = sessionStorage.getItem("keys") !== "off";
on.addEventListener("change", () => sessionStorage.setItem("keys", on.checked ? "on" : "off"));
addEventListener("pageshow", () => { sent = false; });
addEventListener("submit", (event) => {
  if (sent) event.preventDefault();
  sent = true;
});
addEventListener("keydown", (event) => {
  if (!on.checked || sent || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const button = document.querySelector(`button[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
  if (button) button.click();
});
