import assert from 'node:assert/strict';
import {test} from 'node:test';
import {load} from './load.mjs';

const GERMAN = {Size: 'Größe', '{n} s left': 'noch {n} s', '{names} and {n} more': '{names} und {n} weitere'};

test('text is translated, and without a translation it is English', () => {
    const {t} = load({language: GERMAN}).words;
    assert.equal(t('Size'), 'Größe');
    assert.equal(t('Rank'), 'Rank');
});

test('values are put into their places, and unknown places stay', () => {
    const {t} = load().words;
    assert.equal(t('{a} of {b}', {a: 1, b: 2}), '1 of 2');
    assert.equal(t('{a} and {c}', {a: '{c}'}), '{c} and {c}');
});

test('a long list of names is cut', () => {
    const {listed} = load({language: GERMAN}).words;
    assert.equal(listed(['a', 'b']), 'a, b');
    assert.equal(listed(['a', 'b', 'c', 'd'], 2), 'a, b und 2 weitere');
});

test('time left is in seconds up to a minute and a half', () => {
    const {duration} = load({language: GERMAN}).words;
    assert.equal(duration(0.2), 'noch 1 s');
    assert.equal(duration(89), 'noch 89 s');
    assert.equal(duration(150), '3 min left');
});

test('one thing has another form than many, with figures in groups', () => {
    const {plural} = load().words;
    assert.equal(plural(1, '{n} job', '{n} jobs'), '1 job');
    assert.equal(plural(0, '{n} job', '{n} jobs'), '0 jobs');
    assert.equal(plural(2000, '{n} file, {size}', '{n} files, {size}', {size: '3 MB'}), '2,000 files, 3 MB');
});
