import assert from 'node:assert/strict';
import {test} from 'node:test';
import {load} from './load.mjs';

const {count, percent, rankRange, round, saving, size, sizes, sum} = load().numbers;
const MIB = 2 ** 20;

test('a size has three digits, and 1 MB is 2^20 bytes', () => {
    assert.equal(size(MIB), '1.00 MB');
    assert.equal(size(46.13 * MIB), '46.1 MB');
    assert.equal(size(870 * MIB), '870 MB');
    assert.equal(size(1024 * MIB), '1.00 GB');
    assert.equal(size(null), '–');
});

test('small sizes are in KB and bytes', () => {
    assert.equal(size(10 * 1024), '10.0 KB');
    assert.equal(size(102400), '100 KB');
    assert.equal(size(0.1 * MIB), '0.10 MB');
    assert.equal(size(1023), '1023 B');
    assert.equal(size(0), '0 B');
    assert.equal(size(-2 * MIB), '−2.00 MB');
});

test('two sizes share their unit where it is the same', () => {
    assert.equal(sizes(870 * MIB, 46.13 * MIB), '870 → 46.1 MB');
    assert.equal(sizes(1.5 * MIB, 20 * 1024), '1.50 MB → 20.0 KB');
    assert.equal(sizes(2048 * MIB, 1536 * MIB), '2.00 → 1.50 GB');
    assert.equal(sizes(900, 20), '900 → 20 B');
    assert.equal(sizes(1536 * MIB, 512 * MIB), '1.50 GB → 512 MB');
    assert.equal(sizes(512 * MIB, 1536 * MIB), '512 MB → 1.50 GB');
});

test('what is saved has a sign, but for nothing', () => {
    assert.equal(saving(100, 25), '−75 %');
    assert.equal(saving(100, 130), '+30 %');
    assert.equal(saving(1000, 999), '0 %');
    assert.equal(saving(1000, 1001), '0 %');
});

test('shares, ranks and counts', () => {
    assert.equal(percent(0.9234), '92.3 %');
    assert.equal(percent(0.9, 0), '90 %');
    assert.equal(percent(null), '–');
    assert.equal(rankRange([4, 8, 64]), '4…64');
    assert.equal(rankRange([8, 8, 8]), '8');
    assert.equal(rankRange(null), '–');
    assert.equal(count(2000), '2,000');
    assert.equal(round(1.005, 1), 1);
    assert.equal(sum([{bytes: 2}, {bytes: 3}], 'bytes'), 5);
});
