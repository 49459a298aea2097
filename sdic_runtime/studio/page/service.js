// Requests to the service. An answer that is none of what was asked for is an error with its sentence and its status.

export async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the service does not answer; start it again with: sdic-run studio");
  }
  if (answer.ok) return answer;
  let sentence = `the service answered ${answer.status}`;
  try { sentence = (await answer.json()).error || sentence; } catch { /* no JSON: the status is all there is */ }
  throw Object.assign(new Error(sentence), { status: answer.status });
}
export const json = async (path, options) => (await ask(path, options)).json();
export const post = (body, signal) => ({ method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal });
