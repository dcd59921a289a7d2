/* Loads the scripts of the page into an empty world, as a browser would: in name order, as classic scripts. */
import {readFileSync, readdirSync} from 'node:fs';
import vm from 'node:vm';

export const FOLDER = new URL('../../javascript/', import.meta.url);
export const NAMES = readdirSync(FOLDER)
    .filter(name => name.endsWith('.js'))
    .sort();

export function sourceOf(name) {
    return readFileSync(new URL(name, FOLDER), 'utf8');
}

/* An element that accepts everything, for scripts that only register listeners when they are loaded. */
function stubElement() {
    return {addEventListener() {}, querySelector: () => null, getElementById: () => null};
}

/* The namespace after all scripts were loaded `times` times; `language` is a dictionary of the host. */
export function load({times = 1, language = {}} = {}) {
    const window = {localization: language, addEventListener() {}};
    const world = vm.createContext({window, document: stubElement(), navigator: {languages: ['en']}, setTimeout() {}});
    for (let i = 0; i < times; i++) NAMES.forEach(name => vm.runInContext(sourceOf(name), world, {filename: name}));
    return window.resizeLora;
}

/* A value as this world knows it; arrays and objects of the other one have other prototypes. */
export function plain(value) {
    return JSON.parse(JSON.stringify(value));
}
