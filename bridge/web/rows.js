/** Rows of tables: made as elements at once, without the comparison of everything that Preact would make. */

/** @param {Node} parent @param {any} children */
function fill(parent, children) {
  if (Array.isArray(children)) for (const child of children) fill(parent, child);
  else if (children?.type) parent.appendChild(make(children));
  else if (children !== null && children !== undefined && typeof children !== "boolean") parent.appendChild(document.createTextNode(children));
}

/** The element that a vnode describes; in it are elements and text, no components. @param {any} vnode @returns {HTMLElement} */
function make({ type, props }) {
  const element = document.createElement(type);
  for (const name in props) {
    const value = props[name];
    if (name === "children") fill(element, value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2).toLowerCase(), value);
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  return element;
}

/** Put `made` in the place of `old`, the focus with it. @param {any} old @param {any} made */
function replace(old, made) {
  const hadFocus = old === document.activeElement;
  old.replaceWith(made);
  if (hadFocus) made.focus?.();
}

/** Make `old` like `made`, so that the focus, the hovered and the selected stay; a button that differs is another one. @param {any} old @param {any} made */
function patch(old, made) {
  if (old.isEqualNode(made)) return;
  if (old.nodeName !== made.nodeName || old.nodeName === "BUTTON") return replace(old, made);
  if (old.nodeType === Node.TEXT_NODE) old.data = made.data;
  else {
    for (const { name } of [...old.attributes]) if (!made.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of made.attributes) old.setAttribute(name, value);
    const before = [...old.childNodes];
    for (const child of [...made.childNodes]) before.length ? patch(before.shift(), child) : old.append(child);
    for (const child of before) child.remove();
  }
}

/** What was drawn: of which columns, and each row with its element. @typedef {{columns: any, rows: Map<string, {row: any, element: HTMLElement}>}} Drawn */

/**
 * Show these rows in a table's body; `drawn` is what stands there. Those that are the same as before are left alone.
 * @param {HTMLElement} body @param {Drawn} drawn @param {any} columns @param {any[]} rows @param {(row: any) => string} keyOf @param {(row: any) => any} draw
 * @returns {Drawn}
 */
export function showRows(body, drawn, columns, rows, keyOf, draw) {
  const shown = new Map();
  let next = body.firstChild;
  for (const row of rows) {
    const key = keyOf(row);
    let { row: before, element } = drawn.rows.get(key) ?? {};
    if (!element) element = make(draw(row));
    else if (before !== row || drawn.columns !== columns) patch(element, make(draw(row)));
    shown.set(key, { row, element });
    if (element === next) next = element.nextSibling;
    else body.insertBefore(element, next);
  }
  for (const [key, { element }] of drawn.rows) if (!shown.has(key)) element.remove();
  return { columns, rows: shown };
}
