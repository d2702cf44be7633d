/** Points from a CSV file, and back. */

/** The largest file that a page reads, in bytes, and the most rows. */
const LARGEST = 5_000_000, MOST_ROWS = 20_000, MOST_CLASSES = 64;

export interface Table {
  points: number[];
  labels: number[] | null;
  names: string[] | null;
  columns: string[] | null;
}

/** What is wrong with a CSV file: the row, what was found, and what is allowed. */
export class CsvError extends Error {}

/** Raise `CsvError` for a file too large to read. */
export function checkSize(file: File): void {
  if (file.size > LARGEST) {
    const size = (file.size / 1e6).toFixed(0);
    throw new CsvError(`${file.name} has ${size} MB; the page reads at most 5 MB. Fit it with "toydiffusion fit" and open the model here.`);
  }
}

/** Two columns of numbers, and perhaps a third of labels. A first row of names may stand above. */
export function readCsv(text: string): Table {
  const lines = text.replace(/^\ufeff/, "").split(/\r\n|\r|\n/);
  while (lines.length && !lines[lines.length - 1]!.trim()) lines.pop();
  if (!lines.length) throw new CsvError("The file is empty; two columns of numbers are expected.");
  const mark = [",", ";", "\t"].find((one) => lines[0]!.includes(one)) ?? ",";
  const cells = (line: string): string[] => line.split(mark).map((cell) => cell.trim().replace(/^"(.*)"$/, "$1"));
  const first = cells(lines[0]!), isNumber = (cell: string | undefined): boolean => !!cell && Number.isFinite(Number(cell));
  const header = !(isNumber(first[0]) && isNumber(first[1]));
  const rows = lines.slice(header ? 1 : 0);
  if (first.length < 2 || first.length > 3) {
    throw new CsvError(`Row 1 has ${first.length} column${first.length === 1 ? "" : "s"}; two columns of numbers are expected, and a third of labels is allowed.`);
  }
  if (rows.length > MOST_ROWS) throw new CsvError(`The file has ${rows.length} rows; the page trains on at most ${MOST_ROWS}.`);
  if (rows.length < 2) throw new CsvError("The file has fewer than two points.");
  const points: number[] = [], texts: string[] = [];
  rows.forEach((line, i) => {
    const row = cells(line), at = i + (header ? 2 : 1);
    if (row.length !== first.length) throw new CsvError(`Row ${at} has ${row.length} columns, not ${first.length}.`);
    for (const cell of row.slice(0, 2)) {
      if (!isNumber(cell)) throw new CsvError(`Row ${at} has "${cell.slice(0, 30)}" where a number is expected.`);
      points.push(Number(cell));
    }
    if (row.length > 2) texts.push(row[2]!);
  });
  if (!texts.length) return { points, labels: null, names: null, columns: header ? first : null };
  const names = [...new Set(texts)].sort();
  if (names.length > MOST_CLASSES) {
    throw new CsvError(`The third column has ${names.length} different labels; at most ${MOST_CLASSES} are allowed.`);
  }
  return { points, labels: texts.map((one) => names.indexOf(one)), names, columns: header ? first : null };
}

/** Points, and labels in quotes if there are any, as text. */
export function writeCsv(points: ArrayLike<number>, labels: readonly string[] | null): string {
  const rows = [labels ? "x0,x1,label" : "x0,x1"];
  for (let i = 0; 2 * i < points.length; i++) {
    const label = labels ? `,"${labels[i]!.replaceAll('"', '""')}"` : "";
    rows.push(`${points[2 * i]},${points[2 * i + 1]}${label}`);
  }
  return rows.join("\n") + "\n";
}
