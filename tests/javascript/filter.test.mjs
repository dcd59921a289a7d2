import assert from 'node:assert/strict';
import {test} from 'node:test';
import {load, plain} from './load.mjs';

const {FILTER, familiesOf, foldersOf, gainOf, isFiltering, rowsOf, savedFilter} = load().filter;
const ALL = {...FILTER, sort: 'name', down: false};
const FILES = [
    {name: 'hogs 10', folder: 'animals/pigs', kind: 'LoRA', family: 'SDXL', fits: true, bytes: 30, rank: 8},
    {name: 'hogs 9', folder: 'animals', kind: 'LoHa', family: 'SD1.5', fits: false, bytes: 20, rank: null},
    {name: 'pastry', folder: '', kind: null, family: null, fits: null, bytes: 10, rank: 64, problem: 'damaged'},
];
const made = (name, bytes, source, more) => ({name, folder: '', bytes, ours: {source}, ...more});

function rows(change, {files = FILES, after = () => null, unfolded = []} = {}) {
    const view = {after, families: familiesOf(files), unfolded: new Set(unfolded)};
    return rowsOf(files, {...ALL, ...change}, view);
}

function found(change, more) {
    return plain(rows(change, more).map(row => row.key));
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

test('by family, by folder, by what fits the loaded checkpoint and by what is broken', () => {
    assert.deepEqual(found({family: 'SD1.5'}), ['hogs 9']);
    assert.deepEqual(found({fits: true}), ['hogs 10']);
    assert.deepEqual(found({folder: 'animals'}), ['hogs 9', 'hogs 10']);
    assert.deepEqual(found({folder: 'animals/pigs'}), ['hogs 10']);
    assert.deepEqual(found({folder: 'anim'}), []);
    assert.deepEqual(found({show: 'broken'}), ['pastry']);
});

test('by what would be saved: more than so many MB, and what is not known is not', () => {
    const MIB = 2 ** 20;
    const files = [50, 20, 10].map((mib, i) => ({name: `${i}`, folder: '', bytes: mib * MIB}));
    const after = file => ({0: 10 * MIB, 1: 15 * MIB})[file.name] ?? null;
    assert.deepEqual(found({gain: 5}, {files, after}), ['0']);
    assert.deepEqual(found({gain: 4.9}, {files, after}), ['0', '1']);
    assert.equal(gainOf(files[0], after), 40 * MIB);
    assert.equal(gainOf(files[2], after), null);
    assert.deepEqual(found({sort: 'gain'}, {files, after}), ['1', '0', '2']);
    assert.deepEqual(found({sort: 'gain', down: true}, {files, after}), ['0', '1', '2']);
});

test('not resized yet: no result, no broken file, none with a version or an archived original', () => {
    const files = [
        ...FILES,
        made('hogs 9_5mb', 5, 'hogs 9'),
        made('lost_5mb', 5, 'lost'),
        {name: 'small', folder: '', bytes: 1, archived: 'id'},
    ];
    assert.deepEqual(found({show: 'new'}, {files}), ['hogs 10']);
});

test('a file without a value comes last in both directions', () => {
    assert.deepEqual(found({sort: 'rank'}), ['hogs 10', 'pastry', 'hogs 9']);
    assert.deepEqual(found({sort: 'rank', down: true}), ['pastry', 'hogs 10', 'hogs 9']);
    assert.deepEqual(found({sort: 'family'}), ['hogs 9', 'hogs 10', 'pastry']);
    const after = file => ({pastry: 9, 'hogs 9': 4})[file.name] ?? null;
    assert.deepEqual(found({sort: 'after'}, {after}), ['hogs 9', 'pastry', 'hogs 10']);
    assert.deepEqual(found({sort: 'after', down: true}, {after}), ['pastry', 'hogs 9', 'hogs 10']);
    assert.deepEqual(found({sort: 'after', down: true}), ['hogs 9', 'hogs 10', 'pastry']);
});

const FAMILY = [
    {name: 'a', folder: '', bytes: 50},
    made('big', 60, 'a'),
    made('b', 20, 'a'),
    made('c', 10, 'b'),
    made('d', 1, 'x'),
];

test('versions belong to the original that they go back to, the smallest first', () => {
    const families = familiesOf(FAMILY);
    assert.deepEqual([...families.keys()], ['a']);
    assert.deepEqual(plain(families.get('a').map(file => file.name)), ['c', 'b', 'big']);
});

test('files that name each other in a circle are rows of their own', () => {
    const files = [made('a', 2, 'b'), made('b', 1, 'a'), made('c', 1, 'c')];
    assert.deepEqual(found({}, {files}), ['a', 'b', 'c']);
});

test('an original and its versions are one row that unfolds', () => {
    assert.deepEqual(found({}, {files: FAMILY}), ['a', 'd']);
    assert.deepEqual(found({}, {files: FAMILY, unfolded: ['a', 'd']}), ['a', 'c', 'b', 'big', 'd']);
    const [head, version] = rows({}, {files: FAMILY, unfolded: ['a']});
    assert.deepEqual([head.depth, head.isUnfolded, head.versions.length], [0, true, 3]);
    assert.deepEqual([version.depth, version.isUnfolded, version.versions.length], [1, false, 0]);
});

test('a version that alone matches is shown below its original', () => {
    assert.deepEqual(found({text: 'b'}, {files: FAMILY}), ['a', 'b', 'big']);
});

test('a file with the name of another is a row of its own, next to the one that the host uses', () => {
    const files = [{name: 'a', folder: '', bytes: 5, same_name: [{folder: 'old', bytes: 3}]}, FILES[0]];
    const all = rows({}, {files});
    assert.deepEqual(plain(all.map(row => [row.key, row.other && row.other.folder])), [
        ['a', null],
        ['a\nold', 'old'],
        ['hogs 10', null],
    ]);
});

test('folders are listed with the folders above them', () => {
    assert.deepEqual(plain(foldersOf(FILES)), ['animals', 'animals/pigs']);
});

test('a filter of an earlier visit is used as far as it can be', () => {
    const filter = {show: 'new', family: 'SDXL', folder: 'x', gain: 5, fits: true, sort: 'gain', down: false};
    assert.deepEqual(plain(savedFilter({...filter, text: 'hogs'})), {...filter, text: ''});
    for (const bad of [null, 7, 'x', [], {show: 'x', family: 1, gain: '5', fits: 1, sort: 'x', down: 0}]) {
        assert.deepEqual(plain(savedFilter(bad)), plain(FILTER));
    }
});

test('a filter leaves LoRAs out where anything but the order is set', () => {
    assert.equal(isFiltering({...FILTER, sort: 'name', down: false}), false);
    for (const change of [{text: 'a'}, {show: 'new'}, {family: 'a'}, {folder: 'a'}, {gain: 1}, {fits: true}]) {
        assert.equal(isFiltering({...FILTER, ...change}), true);
    }
});
