/* What the page shows for the current choice, from its state alone. */
import assert from 'node:assert/strict';
import {beforeEach, test} from 'node:test';
import {load, plain} from './load.mjs';

const MIB = 2 ** 20;
const TABLE = [
    {bytes: 10 * MIB, retention: 0.5, ranks: [1, 2, 4]},
    {bytes: 20 * MIB, retention: 0.8, ranks: [1, 4, 8]},
];
let choice;
let state;

beforeEach(() => {
    const loaded = load();
    choice = loaded.choice;
    state = loaded.model.state;
    state.hello = {features: ['prompt'], presets: {medium: 'fro_lora=1,retain=0.92'}};
    state.files.set('a', {name: 'a', bytes: 50 * MIB, predicted: {medium: 7}});
    state.analyses.set('a', {
        name: 'a',
        bytes: 50 * MIB,
        table: TABLE,
        presets: {medium: {bytes: 12, retention: 0.6}},
        blocks: {},
    });
    state.current = 'a';
});

test('a preset has its figures from the analysis', () => {
    assert.equal(choice.estimate().bytes, 12);
    assert.equal(choice.expected(state.files.get('a')), 12);
    assert.deepEqual(plain(choice.chosenTarget()), {target: {preset: 'medium'}});
    assert.equal(choice.chosenRecipe(), 'fro_lora=1,retain=0.92');
});

test('a size has its figures from the table', () => {
    state.target = {...state.target, mode: 'size', size: 15};
    assert.equal(choice.estimate().bytes, 10 * MIB);
    assert.equal(choice.chosenRecipe(), 'fro_lora=1,min_rank=1,size=15');
});

test('a size below the smallest file is refused, with both sizes', () => {
    state.target = {...state.target, mode: 'size', size: 5};
    assert.equal(choice.estimate(), null);
    assert.match(choice.refusal(), /5\.00 MB.*10\.0 MB/);
    assert.equal(choice.isBlocked(['a']), true);
    assert.equal(choice.expected(state.files.get('a')), null);
});

test('a plan of the same choice is worth more than the table, one of another choice nothing', () => {
    state.target = {...state.target, mode: 'size', size: 15};
    state.plan = {key: choice.planKey(), result: {bytes_after: 123, retention: 0.7}};
    assert.equal(choice.estimate().bytes, 123);
    assert.equal(choice.estimate().exact, true);
    state.epoch += 1;
    assert.equal(choice.estimate().bytes, 10 * MIB);
});

test('with other scores the table means nothing', () => {
    state.target = {...state.target, mode: 'size', size: 15};
    state.options.scores = 'fro_lora=1';
    assert.equal(choice.estimate(), null);
    assert.deepEqual(plain(choice.changedOptions()), {scores: 'fro_lora=1'});
});

test('a recipe counts once the server has found it valid', () => {
    state.target = {...state.target, mode: 'recipe', recipe: 'size=10'};
    assert.equal(choice.isTargetValid(), false);
    assert.equal(choice.isPending(), true);
    state.recipe = {text: 'size=10', ok: true};
    assert.equal(choice.isTargetValid(), true);
    state.recipe = {text: 'size=1', ok: true};
    assert.equal(choice.isTargetValid(), false);
});

test('what is resized is what is ticked, else the current LoRA, and never a broken file', () => {
    assert.deepEqual(plain(choice.chosenNames()), ['a']);
    state.files.set('b', {name: 'b', problem: 'broken'});
    state.selected.add('b').add('gone');
    assert.deepEqual(plain(choice.chosenNames()), []);
});

test('jobs of this page are distinguished from those of others', () => {
    state.jobs
        .set('j1', {id: 'j1', state: 'running'})
        .set('j2', {id: 'j2', state: 'queued'})
        .set('j3', {id: 'j3', state: 'done'});
    state.ownJobs.add('j2').add('j3');
    assert.deepEqual(plain(choice.activeJobs().map(job => job.id)), ['j1', 'j2']);
    assert.deepEqual(plain(choice.ownActiveJobs().map(job => job.id)), ['j2']);
});
