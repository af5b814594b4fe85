// How many cameras fit on the wall, and how large: lengths are in rem, as in view.css.

const GAP = 0.8;
const LEAST_TALL = 20; // narrower, nothing can be read
const LEAST_WIDE = 36;

// How high a tile becomes, and how wide its picture, which is taken as 4:3.
const LAYOUTS = [
  { wide: false, least: LEAST_TALL, height: (width) => 0.92 * width + 15, picture: (width) => width },
  { wide: true, least: LEAST_WIDE, height: (width) => Math.max(0.45 * width, 20) + 3, picture: (width) => 0.6 * width },
];

/** The columns, and whether words stand beside pictures, that give the largest pictures; null if all cannot be seen at once. */
export function arrangement(count, width, height) {
  let best = null;
  for (let columns = 1; columns <= count; columns += 1) {
    const rows = Math.ceil(count / columns);
    const tile = (width - GAP * (columns - 1)) / columns;
    for (const layout of LAYOUTS) {
      const picture = layout.picture(tile);
      const fits = tile >= layout.least && rows * (layout.height(tile) + GAP) - GAP <= height;
      if (fits && picture > (best?.picture ?? 0)) best = { columns, wide: layout.wide, picture };
    }
  }
  return best;
}
