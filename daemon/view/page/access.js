// Tokens for sessions, and requests that take one.

const dialog = document.getElementById("sign-in-dialog");
const input = document.getElementById("token");
const says = document.getElementById("sign-in-says");
const button = document.getElementById("sign-in");

/** What this browser may do: "nothing", "view" or "control". */
export async function permission() {
  return (await answerOf(fetch("/session"))).may ?? "nothing";
}

/** Send a request to the daemon, and return {ok, message}. */
export function ask(request) {
  return answerOf(fetch("/control", { method: "POST", body: JSON.stringify(request) }));
}

/** A token that came with the address (#token=...) is shown once and taken out of it. */
export async function useTokenOfAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token === null) return;
  history.replaceState(null, "", location.pathname);
  await signIn(token);
}

/** Let the button and the dialog sign in and out; `changed` is called when what we may do has changed. */
export function listenToSignIn(changed) {
  button.addEventListener("click", async () => {
    if (button.dataset.signedIn) {
      await fetch("/session", { method: "DELETE" });
      changed();
    } else {
      openSignIn();
    }
  });
  document.getElementById("sign-in-cancel").addEventListener("click", () => dialog.close());
  dialog.querySelector("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    says.textContent = "";
    const { ok, message } = await signIn(input.value);
    says.textContent = ok ? "" : message;
    if (!ok) return;
    input.value = "";
    dialog.close();
    changed();
  });
}

export function openSignIn() {
  if (!dialog.open) dialog.showModal();
}

/** The button says what it would do. */
export function showPermission(may, anybodyMayControl) {
  button.dataset.signedIn = may === "control" ? "yes" : "";
  button.textContent = may === "control" ? "Sign out" : "Sign in";
  button.hidden = may === "view" && !anybodyMayControl;
}

function signIn(token) {
  return answerOf(fetch("/session", { method: "POST", body: JSON.stringify({ token: token.trim() }) }));
}

async function answerOf(fetching) {
  try {
    const response = await fetching;
    return { ok: response.ok, ...(await response.json()) };
  } catch {
    return { ok: false, message: "the view does not answer" };
  }
}
