// Opens a run's report.html (or a comparison) in headless Chromium, as a reader would: at the
// width of a desk and of a phone, light and dark.
//
//     npm install playwright-core
//     node tools/report_check.mjs RUN/report.html [--compare compare.html] [--shots DIR]
//
// Fails unless every figure is there and drawn, the table of classes sorts, the confusion matrix
// answers the pointer, zooms and has counts, nothing scrolls sideways, nothing is asked of a network, and
// the console stays silent. CHROMIUM names the browser (default: chromium on the PATH).

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

// Found where the command is run, wherever this file lies.
const { chromium } = createRequire(resolve('package.json'))('playwright-core');

const args = process.argv.slice(2);
const option = name => { const at = args.indexOf(name); return at < 0 ? null : args.splice(at, 2)[1]; };
const shots = option('--shots'), comparison = option('--compare');
const report = args[0];
if (!report) throw new Error('usage: node tools/report_check.mjs RUN/report.html [--compare FILE] [--shots DIR]');
if (shots) mkdirSync(shots, {recursive: true});

const executablePath = process.env.CHROMIUM ?? execFileSync('sh', ['-c', 'command -v chromium']).toString().trim();
const browser = await chromium.launch({executablePath, args: ['--no-sandbox', '--disable-gpu', '--disable-quic',
  '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']});

async function open(file, {width, height, mobile, scheme}) {
  const context = await browser.newContext({viewport: {width, height}, isMobile: mobile, hasTouch: mobile,
    deviceScaleFactor: mobile ? 2 : 1, colorScheme: scheme});
  const page = await context.newPage();
  const troubles = [];
  page.on('console', message => troubles.push(`console: ${message.text()}`));
  page.on('pageerror', error => troubles.push(`error: ${error.message}`));
  page.on('request', request => { if (!/^(file|data):/.test(request.url())) troubles.push(`request: ${request.url()}`); });
  await page.goto(pathToFileURL(resolve(file)).href);
  await page.waitForTimeout(200);
  return {context, page, troubles};
}

async function checkReport(view) {
  const {context, page, troubles} = await open(report, view);
  const data = JSON.parse(await page.locator('#data').textContent());
  const classes = data.classes.length;
  assert.ok(await page.locator('#tiles .tile').count() >= 5);
  if (data.runs[0].history.length) assert.ok(await page.locator('#curve polyline').count() >= 1);
  assert.equal(await page.locator('#weights img').count(), data.weights?.length ?? 0);
  const pictures = data.mistakes.filter(m => m.picture).length + data.unsure.filter(m => m.picture).length;
  assert.equal(await page.locator('#mistakes img, #unsure img').count(), pictures);
  for (const image of await page.locator('img').all()) await image.evaluate(image => { image.loading = 'eager'; return image.decode(); });

  const rows = page.locator('#classes tbody tr');
  assert.equal(await rows.count(), classes);
  const column = async i => (await page.locator(`#classes tbody td:nth-child(${i})`).allTextContents()).map(parseFloat);
  const falls = list => list.every((v, i) => i === 0 || v <= list[i - 1]);
  assert.ok(falls(await column(3)), 'sorted by recall at first');
  await page.locator('#classes th button', {hasText: 'F1'}).click();
  assert.ok(falls(await column(5)), 'sorted by F1 after a click');
  await page.locator('#classes th button', {hasText: 'F1'}).click();
  assert.ok(falls((await column(5)).reverse()), 'the other way round after another');
  assert.equal(await page.locator('#classes th[aria-sort=ascending]').count(), 1);

  const canvas = page.locator('#confusion canvas');
  // The colours of the matrix, read from a copy: Chromium warns of a canvas that is read twice.
  const colours = () => canvas.evaluate(canvas => {
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d');
    copy.drawImage(canvas, 0, 0);
    const pixels = copy.getImageData(0, 0, canvas.width, canvas.height).data, found = new Set();
    for (let i = 0; i < pixels.length; i += 4) found.add('#' + [...pixels.slice(i, i + 3)].map(v => v.toString(16).padStart(2, '0')).join(''));
    return [...found];
  });
  assert.ok((await colours()).length > 2, 'the confusion matrix is drawn');
  await canvas.scrollIntoViewIfNeeded();
  const box = await canvas.boundingBox();
  await page.mouse.move(box.x + 3, box.y + 3);
  const read = await page.locator('#confusion .readout').textContent();
  assert.ok(read.startsWith(data.classes[0]), `the corner is the first class: ${read}`);
  const inks = await page.evaluate(() => ['--ink', '--card'].map(style));
  const counted = async () => (await colours()).some(colour => inks.includes(colour));
  const fewDigits = data.evaluation.confusion.every(([, , n]) => n < 1000);
  if (classes > 16) {
    await canvas.click({position: {x: 3, y: 3}});
    assert.equal(await canvas.evaluate(canvas => canvas.style.cursor), 'zoom-out');
    if (fewDigits) assert.ok(await counted(), 'the cells of the zoomed matrix have their counts');
    await canvas.click({position: {x: 3, y: 3}});
  } else if (fewDigits) {
    assert.ok(await counted(), 'the cells have their counts');
  }
  await page.mouse.move(0, 0);
  await finish(page, troubles, view, 'report');
  await context.close();
}

async function checkComparison(view) {
  const {context, page, troubles} = await open(comparison, view);
  const data = JSON.parse(await page.locator('#data').textContent());
  assert.ok(await page.locator('#curve polyline').count() >= data.runs.length);
  assert.ok(await page.locator('#differences tbody tr').count() > 0);
  await finish(page, troubles, view, 'compare');
  await context.close();
}

async function finish(page, troubles, view, name) {
  const [wide, screen] = await page.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
  assert.ok(wide <= screen, `${wide} pixels wide on a screen of ${screen}`);
  const label = `${name}-${view.mobile ? 'phone' : 'desk'}-${view.scheme}`;
  if (shots) await page.screenshot({path: `${shots}/${label}.png`, fullPage: true});
  assert.deepEqual(troubles, [], label);
  console.log(`${label}: all there`);
}

for (const scheme of ['light', 'dark']) {
  for (const view of [{width: 1280, height: 900, mobile: false, scheme}, {width: 390, height: 844, mobile: true, scheme}]) {
    await checkReport(view);
    if (comparison) await checkComparison(view);
  }
}
await browser.close();
