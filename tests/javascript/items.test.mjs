/* The files of a run: orders, filters, tables; and words about time and progress. */
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {load, plain} from './load.mjs';

const all = load();
const {FILTERS, filterCounts, jsonText, sorted, spanText, tableOf, titleWith, watched} = all.items;

function item(name, state, more) {
    return {
        name,
        folder: '',
        family: null,
        state,
        reason: null,
        message: '',
        bytes_before: 100,
        bytes_after: null,
        retention: null,
        notes: [],
        entry: null,
        seconds: 1,
        ...more,
    };
}

const ITEMS = [
    item('a', 'resized', {bytes_after: 50, retention: 0.95}),
    item('b', 'resized', {bytes_after: 20, retention: 0.9, effect: {kept: 0.97}}),
    item('c', 'left', {reason: 'gain', bytes_after: 95, retention: 0.2}),
    item('d', 'failed', {message: '=1+1'}),
    item('e', 'resized', {bytes_after: 50, retention: 0.9, notes: ['one', 'two']}),
    item('f', 'restored', {bytes_after: 10, retention: 0.1}),
    item('g', 'purged', {bytes_after: 30, retention: 0.93}),
    item('h', 'waiting'),
];

function names(items) {
    return items.map(one => one.name).join('');
}

test('by gain: the largest share first, files that were not replaced last, by name', () => {
    assert.equal(names(sorted(ITEMS, 'gain')), 'fbgaecdh');
});

test('by risk: the lowest retention of resized files first, among equal ones those with notes', () => {
    assert.equal(names(sorted(ITEMS, 'risk')), 'ebgacdfh');
});

test('by name, and the list itself stays', () => {
    assert.equal(names(sorted([...ITEMS].reverse(), 'name')), 'abcdefgh');
    assert.equal(names(ITEMS), 'abcdefgh');
});

test('each file is in one filter, and a file whose original was deleted is resized', () => {
    assert.deepEqual(plain(filterCounts(ITEMS)), {all: 8, resized: 4, left: 1, failed: 1, restored: 1, open: 1});
    for (const one of ITEMS) {
        assert.equal(Object.values(FILTERS).filter(fits => fits(one)).length, 2, one.name);
    }
});

test('a run is watched from the file in work on', () => {
    const list = [item('a', 'resized'), item('b', 'waiting'), item('c', 'working'), item('d', 'waiting')];
    assert.equal(names(watched(list)), 'cbda');
});

test('a table has a head, each file, and no formula', () => {
    const table = tableOf(ITEMS);
    const column = name => table[0].indexOf(name);
    assert.equal(table.length, 9);
    assert.equal(table[1][column('gain')], 0.5);
    assert.equal(table[3][column('gain')], '');
    assert.deepEqual([table[1][column('effect')], table[2][column('effect')]], ['', 0.97]);
    assert.equal(table[5][column('notes')], 'one; two');
    assert.match(all.text.csvText(table), /,"'=1\+1",/);
});

test('a run as JSON has all that the server said', () => {
    const run = {run: 'x', freed: 3};
    assert.deepEqual(JSON.parse(jsonText(run, ITEMS)), {run, items: plain(ITEMS)});
});

test('a time has at most two units, and no unit is full', () => {
    const texts = {
        0: '1 s',
        40.4: '40 s',
        89.4: '89 s',
        90: '2 min',
        3569: '59 min',
        3570: '1 h',
        7800: '2 h 10 min',
        86369: '23 h 59 min',
        86370: '1 d',
        273600: '3 d 4 h',
    };
    for (const [seconds, text] of Object.entries(texts)) assert.equal(spanText(Number(seconds)), text, seconds);
});

test('the title has the progress in front, once, and loses it at the end', () => {
    assert.equal(titleWith('Resize LoRA', 0.379), '37 % · Resize LoRA');
    assert.equal(titleWith('37 % · Resize LoRA', 0.4), '40 % · Resize LoRA');
    assert.equal(titleWith('40 % · [12%] the host', null), '[12%] the host');
});
