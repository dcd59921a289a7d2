/* What a run over a library would free, as the dialog shows it before anything is written. */
import assert from 'node:assert/strict';
import {beforeEach, test} from 'node:test';
import {load, plain} from './load.mjs';

const {familyCounts, folderCounts, shareSaved, roomNeeded, sumsOf} = load().sums;

function row(name, more) {
    return {name, folder: 'styles', family: 'SDXL', bytes: 100, bytes_now: 100, left: null, after: 40, ...more};
}

const ROWS = [
    row('a'),
    row('b', {folder: 'styles/animals', after: 85}),
    row('c', {folder: '', family: 'SD1.5', after: 20}),
    row('d', {folder: 'styles-old', after: null}),
    row('e', {left: 'broken', after: null}),
    row('f', {bytes: 300, bytes_now: 60, after: 30}),
    row('g', {family: null, after: 120}),
];
let limits;

beforeEach(() => {
    limits = {leastGain: 10, folders: new Set(), families: new Set()};
});

function sums(rows = ROWS) {
    return sumsOf(rows, one => one.after, limits);
}

function leftNames() {
    return Object.fromEntries([...sums().left].map(([kind, rows]) => [kind, rows.map(one => one.name).join('')]));
}

test('what gains too little, or is larger, is left alone with what the server leaves alone', () => {
    assert.deepEqual(leftNames(), {broken: 'e', gain: 'g'});
    limits.leastGain = 15.1;
    assert.deepEqual(leftNames(), {gain: 'bg', broken: 'e'});
    limits.leastGain = 100;
    assert.deepEqual(leftNames(), {gain: 'abcfg', broken: 'e'});
});

test('a gain that is exactly the least one is enough', () => {
    limits.leastGain = 60;
    assert.equal(sums([row('a')]).files, 1);
    limits.leastGain = 60.1;
    assert.equal(sums([row('a')]).files, 0);
});

test('sums are of files whose new size is known, and the others are named', () => {
    const found = sums();
    assert.deepEqual(
        [found.files, found.before, found.after, found.freed, found.bytes, found.source],
        [5, 360, 175, 185, 460, 700],
    );
    assert.deepEqual(plain(found.unknown), {files: 1, bytes: 100});
});

test('a file that is resized again frees what it has now, and reads its original', () => {
    const found = sums([ROWS[5]]);
    assert.equal(found.freed, 30);
    assert.equal(found.source, 300);
});

test('a folder is excluded with those inside of it, and not with those whose name begins alike', () => {
    limits.folders.add('styles');
    assert.deepEqual(leftNames(), {folder: 'abfg', broken: 'e'});
    assert.equal(sums().unknown.files, 1);
});

test('the LoRA folder itself is excluded without the folders inside of it', () => {
    limits.folders.add('');
    assert.deepEqual(leftNames(), {folder: 'c', broken: 'e', gain: 'g'});
});

test('a family is excluded, and files of an unknown one are not', () => {
    limits.families.add('SD1.5');
    limits.families.add('SDXL');
    assert.deepEqual(leftNames(), {family: 'abcdf', broken: 'e', gain: 'g'});
});

test('a file that would not become smaller is left alone with any limit', () => {
    limits.leastGain = 0;
    assert.equal(sums([row('a', {after: 100})]).left.get('gain').length, 1);
    assert.equal(sums([row('a', {after: 99})]).files, 1);
});

test('the gain of a file that is resized again is that of its original, as the server counts it', () => {
    limits.leastGain = 80;
    assert.equal(sums([row('a', {bytes: 1000, bytes_now: 210, after: 200})]).files, 1);
});

test('a reason of the server is worth more than those of the dialog', () => {
    limits.folders.add('styles');
    limits.leastGain = 100;
    assert.equal(leftNames().broken, 'e');
});

test('a file of no bytes gains nothing', () => {
    assert.equal(shareSaved(0, 0), 0);
});

test('folders count what is inside of them', () => {
    assert.deepEqual(plain(folderCounts(ROWS)), [
        ['', 1],
        ['styles', 5],
        ['styles-old', 1],
        ['styles/animals', 1],
    ]);
    assert.deepEqual(plain(familyCounts(ROWS)), [
        ['SD1.5', 1],
        ['SDXL', 5],
    ]);
});

test('on the same disk the new files need room, on another one the originals do', () => {
    assert.equal(roomNeeded(sums(), true), 275);
    assert.equal(roomNeeded(sums(), false), 700);
});
