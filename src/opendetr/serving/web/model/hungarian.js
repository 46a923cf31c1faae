/**
 * The one-to-one assignment of the lowest total cost, by shortest augmenting paths (Crouse 2016, "On implementing 2D
 * rectangular assignment algorithms"), the algorithm of scipy's `linear_sum_assignment`.
 */

/**
 * The column of every row; -1 where there are fewer columns than rows and the row gets none.
 *
 * Of several assignments of one cost it gives the one that scipy gives.
 *
 * @param {ArrayLike<number>[]} cost [rows][columns], finite
 * @returns {number[]}
 */
export function assign(cost) {
  const [rows, columns] = [cost.length, cost[0]?.length ?? 0];
  if (rows <= columns) return assignRows(rows, columns, (row, column) => cost[row][column]);
  const found = new Array(rows).fill(-1);
  assignRows(columns, rows, (column, row) => cost[row][column]).forEach((row, column) => {
    found[row] = column;
  });
  return found;
}

/**
 * @param {number} rows at most as many as columns
 * @param {number} columns
 * @param {(row: number, column: number) => number} costOf
 * @returns {number[]} the column of every row
 */
function assignRows(rows, columns, costOf) {
  const [ofRow, ofColumn] = [new Float64Array(rows), new Float64Array(columns)]; // the prices of the dual problem
  const [columnOf, rowOf] = [new Array(rows).fill(-1), new Array(columns).fill(-1)];
  for (let begun = 0; begun < rows; begun++) {
    const distance = new Float64Array(columns).fill(Infinity);
    const before = new Array(columns).fill(-1); // the row from which the shortest path reaches a column
    const open = Array.from({ length: columns }, (_, at) => columns - 1 - at);
    const passed = [begun];
    const closed = [];
    let [row, reached, end] = [begun, 0, -1];
    while (end < 0) {
      let nearest = -1;
      open.forEach((column, at) => {
        const length = reached + costOf(row, column) - ofRow[row] - ofColumn[column];
        if (length < distance[column]) [distance[column], before[column]] = [length, row];
        const least = nearest < 0 ? Infinity : distance[open[nearest]];
        // Of equal ones a free column, which ends the path.
        if (distance[column] < least || (distance[column] === least && rowOf[column] < 0)) nearest = at;
      });
      const column = open[nearest];
      reached = distance[column];
      const last = /** @type {number} */ (open.pop());
      if (nearest < open.length) open[nearest] = last;
      closed.push(column);
      if (rowOf[column] < 0) {
        end = column;
      } else {
        row = rowOf[column];
        passed.push(row);
      }
    }
    ofRow[begun] += reached;
    for (const other of passed.slice(1)) ofRow[other] += reached - distance[columnOf[other]];
    for (const column of closed) ofColumn[column] -= reached - distance[column];
    for (let column = end; column >= 0; ) {
      const from = before[column];
      [rowOf[column], columnOf[from], column] = [from, column, from === begun ? -1 : columnOf[from]];
    }
  }
  return columnOf;
}
