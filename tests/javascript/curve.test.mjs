import assert from 'node:assert/strict';
import {test} from 'node:test';
import {load, plain} from './load.mjs';

const {inReach, niceStep, overlap, pointFor, shareTicks, sizeTicks} = load().curve;
const MIB = 2 ** 20;
const POINTS = [
    {bytes: 10 * MIB, retention: 0.5},
    {bytes: 20 * MIB, retention: 0.8},
    {bytes: 40 * MIB, retention: 1},
];

test('a size means the largest file that fits', () => {
    assert.equal(pointFor(POINTS, {mode: 'size', size: 20}), 1);
    assert.equal(pointFor(POINTS, {mode: 'size', size: 39}), 1);
    assert.equal(pointFor(POINTS, {mode: 'size', size: 400}), 2);
    assert.equal(pointFor(POINTS, {mode: 'size', size: 1}), 0);
});

test('a size within the error of the table still fits', () => {
    assert.equal(pointFor(POINTS, {mode: 'size', size: 19.995}), 1);
    assert.equal(pointFor(POINTS, {mode: 'size', size: 19.98}), 0);
});

test('a retention means the smallest file that keeps as much', () => {
    assert.equal(pointFor(POINTS, {mode: 'retention', retention: 0.5}), 0);
    assert.equal(pointFor(POINTS, {mode: 'retention', retention: 0.51}), 1);
    assert.equal(pointFor([POINTS[0]], {mode: 'retention', retention: 0.9}), 0);
});

test('only a size can be out of reach', () => {
    assert.equal(inReach(POINTS, {mode: 'size', size: 9}), false);
    assert.equal(inReach(POINTS, {mode: 'size', size: 10}), true);
    assert.equal(inReach(POINTS, {mode: 'retention', retention: 0.1}), true);
});

test('steps of an axis are 1, 2 or 5 times a power of ten', () => {
    assert.deepEqual([0.3, 1, 1.1, 3, 7, 30].map(niceStep), [0.5, 1, 2, 5, 10, 50]);
});

test('shares are marked from 1 down to the least', () => {
    assert.deepEqual(plain(shareTicks(0.5, 3).map(share => Math.round(100 * share))), [100, 80, 60]);
    assert.deepEqual(plain(shareTicks(0.9, 5).map(share => Math.round(100 * share))), [100, 98, 96, 94, 92, 90]);
});

test('a curve that loses nothing has one mark', () => {
    assert.deepEqual(plain(shareTicks(1, 3)), [1]);
    assert.deepEqual(plain(shareTicks(1.0000001, 3)), [1]);
});

test('sizes are marked from 0 up to the most', () => {
    assert.deepEqual(plain(sizeTicks(870 * MIB, 4)), [0, 500]);
    assert.deepEqual(plain(sizeTicks(100 * MIB, 5)), [0, 20, 40, 60, 80, 100]);
});

test('labels overlap where they meet in both directions', () => {
    const label = {left: 100, top: 50, text: 'High'};
    assert.equal(overlap(label, {left: 120, top: 55, text: 'Low'}), true);
    assert.equal(overlap(label, {left: 120, top: 62, text: 'Low'}), false);
    assert.equal(overlap(label, {left: 140, top: 50, text: 'Low'}), false);
});
