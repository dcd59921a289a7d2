const BROWSER = [
    'Blob',
    'Event',
    'HTMLElement',
    'IntersectionObserver',
    'MutationObserver',
    'ResizeObserver',
    'URL',
    'clearTimeout',
    'console',
    'document',
    'getComputedStyle',
    'innerHeight',
    'innerWidth',
    'localStorage',
    'navigator',
    'opts', // of the host's page
    'requestAnimationFrame',
    'sessionStorage',
    'setTimeout',
    'window',
];
const RULES = {
    complexity: ['error', 12],
    curly: ['error', 'multi-line', 'consistent'],
    eqeqeq: ['error', 'always', {null: 'ignore'}],
    'max-len': ['error', {code: 120}],
    'max-lines': ['error', 400],
    'max-lines-per-function': ['error', {max: 40, IIFEs: false}],
    'no-nested-ternary': 'error',
    'no-shadow': 'error',
    'no-undef': 'error',
    'no-unused-vars': 'error',
    'no-var': 'error',
    'prefer-const': 'error',
    strict: ['error', 'function'],
};

export default [
    {
        files: ['javascript/*.js'],
        languageOptions: {
            sourceType: 'script',
            ecmaVersion: 2022,
            globals: Object.fromEntries(BROWSER.map(name => [name, 'readonly'])),
        },
        linterOptions: {reportUnusedDisableDirectives: 'error'},
        rules: RULES,
    },
    {
        files: ['tests/javascript/*.mjs', 'eslint.config.mjs'],
        languageOptions: {sourceType: 'module', ecmaVersion: 2022, globals: {URL: 'readonly'}},
        rules: {...RULES, 'max-lines-per-function': 'off', strict: 'off'},
    },
    {ignores: ['.venv/', 'node_modules/', 'docs/', 'build/', 'tests/browser/']},
];
