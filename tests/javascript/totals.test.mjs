import assert from 'node:assert/strict';
import {test} from 'node:test';
import {load, plain} from './load.mjs';

const {byBatch, outliers, presetBytes, sumCurve, totals} = load().totals;
const PRESETS = {high: 'fro_lora=1,min_rank=1,retain=0.95', low: 'retain=0.9,min_rank=1', odd: 'rank=8'};
const file = (name, bytes, high, low, more) => ({name, bytes, predicted: {high, low, odd: 1}, ...more});
const FILES = [
    file('a', 100, 60, 20),
    file('b', 50, 40, 30, {estimated: true}),
    {name: 'c', bytes: 7, predicted: null},
];

test('totals are of what is known; the rest is counted', () => {
    const high = one => presetBytes(one, 'high');
    assert.deepEqual(plain(totals(FILES, high)), {before: 150, after: 100, known: 2, unknown: 1, isEstimated: true});
    assert.equal(totals(FILES.slice(0, 1), high).isEstimated, false);
    assert.deepEqual(plain(totals([], high)), {before: 0, after: 0, known: 0, unknown: 0, isEstimated: false});
});

test('the curve of the sum has the presets that ask for a retention', () => {
    const {points, marks, files} = sumCurve(FILES, new Map(), PRESETS);
    assert.deepEqual(plain(marks), [
        {name: 'low', retention: 0.9, bytes: 50},
        {name: 'high', retention: 0.95, bytes: 100},
    ]);
    assert.deepEqual(plain(points), plain(marks));
    assert.deepEqual(plain(files.map(one => one.name)), ['a', 'b']);
});

test('with the tables of all files the curve is their sum at each retention', () => {
    const table = [
        {retention: 0.5, bytes: 10},
        {retention: 0.9, bytes: 30},
        {retention: 1, bytes: 100},
    ];
    const other = [
        {retention: 0.8, bytes: 5},
        {retention: 1, bytes: 50},
    ];
    const {points} = sumCurve(
        FILES,
        new Map([
            ['a', table],
            ['b', other],
        ]),
        PRESETS,
    );
    assert.deepEqual(plain(points[0]), {retention: 0.8, bytes: 35});
    assert.deepEqual(plain(points[points.length - 1]), {retention: 1, bytes: 150});
    const one = sumCurve(FILES, new Map([['a', table]]), PRESETS);
    assert.equal(one.points.length, 2);
});

test('without a known file there is no curve', () => {
    assert.equal(sumCurve([FILES[2]], new Map(), PRESETS), null);
    assert.equal(sumCurve([], new Map(), PRESETS), null);
    assert.equal(sumCurve(FILES, new Map(), {odd: 'rank=8'}), null);
});

test('outliers are the ends of what is known', () => {
    const gain = one => ({a: 80, b: 20})[one.name] ?? null;
    const kept = one => ({a: 0.9, c: 0.7})[one.name] ?? null;
    const found = outliers(FILES, gain, kept).map(([kind, one, value]) => [kind, one.name, value]);
    assert.deepEqual(plain(found), [
        ['most', 'a', 80],
        ['least', 'b', 20],
        ['worst', 'c', 0.7],
    ]);
    assert.deepEqual(plain(outliers(FILES.slice(0, 1), gain, kept)), []);
});

test('results are in groups of one call; older ones without a call are alone', () => {
    const results = [{result: '1', batch: 'x'}, {result: '2'}, {result: '3', batch: 'x'}];
    assert.deepEqual(plain(byBatch(results).map(({key, members}) => [key, members.length])), [
        ['x', 2],
        ['2', 1],
    ]);
});
