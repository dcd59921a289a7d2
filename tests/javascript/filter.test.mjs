import assert from 'node:assert/strict';
import {test} from 'node:test';
import {load, plain} from './load.mjs';

const {matching, versionsOf} = load().filter;
const ALL = {text: '', family: '', fits: false, sort: 'name', down: false};
const FILES = [
    {name: 'hogs 10', folder: 'animals', kind: 'LoRA', family: 'SDXL', fits: true, bytes: 30, rank: 8},
    {name: 'hogs 9', folder: 'animals', kind: 'LoHa', family: 'SD1.5', fits: false, bytes: 20, rank: null},
    {name: 'pastry', folder: '', kind: null, family: null, fits: null, bytes: 10, rank: 64},
];

function found(change, after = () => null) {
    return plain(matching(FILES, {...ALL, ...change}, after).map(file => file.name));
}

test('numbers in names are sorted as numbers', () => {
    assert.deepEqual(found({}), ['hogs 9', 'hogs 10', 'pastry']);
    assert.deepEqual(found({down: true}), ['pastry', 'hogs 10', 'hogs 9']);
});

test('each word of a search must be in the folder, the name or the type', () => {
    assert.deepEqual(found({text: 'ANIMALS 9'}), ['hogs 9']);
    assert.deepEqual(found({text: 'loha'}), ['hogs 9']);
    assert.deepEqual(found({text: 'hogs pastry'}), []);
    assert.deepEqual(found({text: '  '}).length, 3);
});

test('by family and by what fits the loaded checkpoint', () => {
    assert.deepEqual(found({family: 'SD1.5'}), ['hogs 9']);
    assert.deepEqual(found({fits: true}), ['hogs 10']);
});

test('a file without a value comes last', () => {
    assert.deepEqual(found({sort: 'rank'}), ['hogs 10', 'pastry', 'hogs 9']);
    assert.deepEqual(found({sort: 'family'}), ['hogs 9', 'hogs 10', 'pastry']);
});

test('by the expected size, an unknown one as the largest', () => {
    const after = file => ({pastry: 9, 'hogs 9': 4})[file.name] ?? null;
    assert.deepEqual(found({sort: 'after'}, after), ['hogs 9', 'pastry', 'hogs 10']);
    assert.deepEqual(found({sort: 'after', down: true}, after), ['hogs 10', 'pastry', 'hogs 9']);
});

test('equal values are sorted by name', () => {
    assert.deepEqual(found({sort: 'after', down: true}), ['hogs 9', 'hogs 10', 'pastry']);
});

test('smaller versions are those that were made from a known file, the smallest first', () => {
    const made = (name, bytes, source) => ({name, bytes, ours: {source}});
    const files = [
        {name: 'a', bytes: 50},
        made('big', 60, 'a'),
        made('b', 20, 'a'),
        made('c', 10, 'a'),
        made('d', 1, 'x'),
    ];
    const versions = versionsOf(files);
    assert.deepEqual([...versions.keys()], ['a']);
    assert.deepEqual(plain(versions.get('a').map(file => file.name)), ['c', 'b']);
});
