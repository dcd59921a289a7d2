/* The scripts as a whole: their order, their names, and that a second run changes nothing. */
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {load, NAMES, plain, sourceOf} from './load.mjs';

test('names sort by their numbers, and no number is used twice', () => {
    const numbers = NAMES.map(name => name.match(/^resize_lora_(\d\d)_[a-z_]+\.js$/)[1]);
    assert.equal(new Set(numbers).size, NAMES.length);
});

test('a second run changes nothing', () => {
    const once = load();
    const twice = load({times: 2});
    assert.deepEqual(Object.keys(twice), Object.keys(once));
    assert.deepEqual(plain(twice.model.DEFAULTS), plain(once.model.DEFAULTS));
});

test('everything that a script uses of another one exists', () => {
    const all = load();
    const missing = [];
    for (const name of NAMES) {
        const source = sourceOf(name);
        for (const [, part, field] of source.matchAll(/\bresizeLora\.(\w+)\.(\w+)/g)) {
            if (!(all[part] && field in all[part])) missing.push(`${name}: ${part}.${field}`);
        }
        for (const [, fields, part] of source.matchAll(/const \{([\w,\s]+)\} =\s*resizeLora\.(\w+);/g)) {
            const absent = fields.split(',').filter(field => field.trim() && !(field.trim() in all[part]));
            if (absent.length) missing.push(`${name}: ${part}.${absent}`);
        }
    }
    assert.deepEqual(missing, []);
});

test('everything that a script exports is used by another one or a test', () => {
    const all = load();
    const TESTED = ['curve.niceStep', 'filter.compareBy', 'filter.byText', 'text.csvCell', 'numbers.digits'];
    const text = NAMES.map(name => sourceOf(name).replace(/resizeLora\.\w+ = \{[\s\S]*?\};/, ''));
    const unused = Object.entries(all).flatMap(([part, fields]) =>
        Object.keys(fields)
            .filter(field => text.filter(one => new RegExp(`\\b${field}\\b`).test(one)).length < 2)
            .map(field => `${part}.${field}`)
            .filter(field => !TESTED.includes(field)),
    );
    assert.deepEqual(unused, []);
});

test('the state is declared whole', () => {
    const {state} = load().model;
    const used = new Set();
    for (const name of NAMES) {
        for (const [, field] of sourceOf(name).matchAll(/(?<![\w.])state\.(\w+)/g)) used.add(field);
    }
    assert.deepEqual([...used].filter(field => !(field in state)).sort(), []);
    assert.deepEqual(
        Object.keys(state).filter(field => !used.has(field)),
        [],
    );
});

test('the page puts two names on window, none of them for tests', () => {
    const names = NAMES.flatMap(name => [...sourceOf(name).matchAll(/window\.(\w+) =(?!=)/g)].map(match => match[1]));
    assert.deepEqual([...new Set(names)].sort(), ['resizeLora', 'resizeLoraFromCard']);
});
