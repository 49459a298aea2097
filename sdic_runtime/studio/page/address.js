// The address of a page holds its state behind the #, which is never sent.

const BETWEEN = 200;  // milliseconds, at least, from one change of the address to the next: Safari refuses more than 100 in 10 seconds

/** What has the address follow: `link()` is what it is to end with. */
export function follower(link) {
  let changed = -BETWEEN, waiting = null;
  return function follow() {
    clearTimeout(waiting);
    const rest = changed + BETWEEN - performance.now();
    if (rest > 0) { waiting = setTimeout(follow, rest); return; }
    changed = performance.now();
    try { history.replaceState(null, "", link()); } catch { /* the next change is remembered again; the picture does not wait for it */ }
  };
}
