# SPDX-License-Identifier: MIT
"""The API's description is held against the server: every path, status and schema."""

import json
import os
import re
import shutil
import subprocess
import tempfile

import support
from support import UNKNOWN as NONE
from support import TestCase, iso
from test_clients import install

# What only a failing disk or a stopping server answers; the unit tests provoke it.
NOT_PROVOKED = {('/cancel', 'post', '503'), ('/tasks', 'delete', '503'),
                ('/tasks/{id}', 'patch', '503'), ('/tasks/{id}', 'delete', '503'),
                ('/events', 'delete', '503'), ('/backup', 'get', '404'), ('/backup', 'get', '503'),
                *(('/sinks/{name}/' + deed, 'post', status)
                  for deed in ('redeliver', 'pause', 'resume') for status in ('503', '507')),
                *(('/sinks/{name}', 'delete', status) for status in ('503', '507')),
                *((path, 'post', status) for path in ('/pause', '/resume')
                  for status in ('503', '507'))}


class Description(TestCase):
    def resolve(self, schema):
        while '$ref' in schema:
            node = self.document
            for name in schema['$ref'].split('/')[1:]:
                node = node[name]
            schema = node
        return schema

    def check(self, schema, value, place='$'):
        """As much of JSON Schema as the document uses."""
        schema = self.resolve(schema)
        if 'allOf' in schema:
            parts = [self.resolve(part) for part in schema['allOf']]
            schema = {'type': 'object',
                      'properties': {k: v for part in parts for k, v in part['properties'].items()},
                      'required': [name for part in parts for name in part['required']]}
        types = schema.get('type', [])
        names = {dict: 'object', list: 'array', str: 'string', bool: 'boolean', int: 'integer',
                 type(None): 'null'}
        if types:
            self.assertIn(names[type(value)], [types] if isinstance(types, str) else types, place)
        if 'enum' in schema:
            self.assertIn(value, schema['enum'], place)
        if 'oneOf' in schema and not types:
            fitting = [one for one in map(self.resolve, schema['oneOf'])
                       if (one.get('type') == 'null') == (value is None) and
                       (value is None or set(one.get('required', [])) <= set(value))]
            self.assertEqual(len(fitting), 1, place)
            self.check(fitting[0], value, place)
        for name in schema.get('required', []):
            self.assertIn(name, value, place)
        if isinstance(value, dict) and 'properties' in schema:
            self.assertLessEqual(set(value), set(schema['properties']), place)
            for name, item in value.items():
                self.check(schema['properties'][name], item, f'{place}.{name}')
        if isinstance(value, list) and 'items' in schema:
            self.assertGreaterEqual(len(value), schema.get('minItems', 0), place)
            for item in value:
                self.check(schema['items'], item, place + '[]')

    def exercise(self, server, method, path, template, status, body=None, headers=None):
        answer = server.ask(method.upper(), path, body, headers)
        self.assertEqual(answer[0], status, (method, path, answer[2]))
        described = self.document['paths'][template][method]['responses'][str(status)]
        self.seen.add((template, method, str(status)))
        if status == 304:
            self.assertEqual((answer[2], described.get('content')), (b'', None))
            return None
        content = self.resolve(described)['content']
        kind = answer[1]['Content-Type'].split(';')[0]
        self.assertIn(kind, content)
        if kind == 'application/json':
            self.check(content[kind]['schema'], answer[2])
        return answer[2]

    def test_every_path_and_status_is_as_described_and_none_is_missing(self):
        path = os.path.join(tempfile.mkdtemp(dir=support.WORK), 'sinks.json')
        self.addCleanup(shutil.rmtree, os.path.dirname(path))
        with open(path, 'w') as file:
            json.dump({'sinks': [{'name': name, 'exec': ['false'], 'retry': []}
                                 for name in ('valve', 'unlisted')]}, file)
        server = self.server('--max-body', '2000', '--sinks', path)
        with open(path, 'w') as file:
            json.dump({'sinks': [{'name': 'valve', 'exec': ['false'], 'retry': []}]}, file)
        server.restart()
        self.document = server.ask('GET', '/openapi.json')[2]
        self.seen = set()
        self.page = {'/'} & set(self.document['paths'])  # a binary without Meson has none
        for path in self.page:
            known = {'If-None-Match': server.ask('GET', path)[1]['ETag']}
            self.exercise(server, 'get', path, path, 304, None, known)
        self.exercise_tasks(server)
        self.exercise_events(server)
        self.exercise_sinks(server)
        self.exercise_refusals(server)
        self.exercise_limits()
        described = {(path, method, status)
                     for path, item in self.document['paths'].items()
                     for method, operation in item.items() if method != 'parameters'
                     for status in operation['responses']}
        behind_a_prefix = {(path, 'get', '308') for path in self.page}  # see prefixes_test.cpp
        self.assertEqual(described - self.seen, NOT_PROVOKED | behind_a_prefix)
        # Every path that the server knows says which methods it knows.
        for path, item in self.document['paths'].items():
            allow = server.ask('OPTIONS', self.concrete(path))[1]['Allow'].lower()
            known = set(allow.split(', ')) - {'head', 'options'}
            self.assertEqual(known, set(item) - {'parameters'}, path)

    def exercise_tasks(self, server):
        go = self.exercise
        task = {'timestamp': iso(3600), 'message': 'x'}
        one = go(server, 'post', '/schedule', '/schedule', 200, task)['id']
        two, three = go(server, 'post', '/schedule', '/schedule', 200, [task, task])['ids']
        go(server, 'post', '/schedule', '/schedule', 400, {})
        key = {'Idempotency-Key': 'k'}
        go(server, 'post', '/schedule', '/schedule', 200, task, key)
        go(server, 'post', '/schedule', '/schedule', 422, {**task, 'message': 'y'}, key)
        go(server, 'get', '/tasks', '/tasks', 200)
        go(server, 'get', '/tasks?limit=2', '/tasks', 200)
        go(server, 'get', '/tasks?limit=x', '/tasks', 400)
        go(server, 'get', '/tasks?q=x&topic=a&topic=b*', '/tasks', 200)
        go(server, 'get', '/tasks?topic=*b', '/tasks', 400)
        go(server, 'get', '/tasks?status=missed', '/tasks', 200)
        go(server, 'get', '/histogram?buckets=24', '/histogram', 200)
        go(server, 'get', '/histogram?buckets=0', '/histogram', 400)
        go(server, 'get', '/tasks/' + one, '/tasks/{id}', 200)
        go(server, 'get', '/tasks/' + NONE, '/tasks/{id}', 404)
        go(server, 'put', '/tasks/valve', '/tasks/{id}', 201, task)
        go(server, 'put', '/tasks/valve', '/tasks/{id}', 200, task)
        go(server, 'put', '/tasks/valve', '/tasks/{id}', 400, [task])
        go(server, 'put', '/tasks/valve', '/tasks/{id}', 412, task, {'If-None-Match': '*'})
        go(server, 'get', '/tasks/valve', '/tasks/{id}', 200)
        go(server, 'patch', '/tasks/' + one, '/tasks/{id}', 200, {'message': {}})
        go(server, 'patch', '/tasks/' + one, '/tasks/{id}', 400, {})
        go(server, 'patch', '/tasks/' + NONE, '/tasks/{id}', 404, {'message': {}})
        go(server, 'post', '/cancel', '/cancel', 200, {'id': one})
        go(server, 'post', '/cancel', '/cancel', 404, {'id': one})
        go(server, 'post', '/cancel', '/cancel', 400, {})
        go(server, 'delete', '/tasks/' + two, '/tasks/{id}', 200)
        go(server, 'delete', '/tasks/' + two, '/tasks/{id}', 404)
        go(server, 'delete', '/tasks', '/tasks', 400)
        go(server, 'delete', '/tasks?due_after=2020', '/tasks', 200)
        go(server, 'delete', '/tasks?all=true', '/tasks', 200)
        go(server, 'get', '/tasks/' + three, '/tasks/{id}', 404)

    def exercise_events(self, server):
        go = self.exercise
        with server.stream() as stream:
            past = server.schedule('now', 0)
            self.assertEqual(stream.next().id, past)
            self.seen.add(('/sse', 'get', '200'))
            self.assertEqual(stream.answer_head.header('Content-Type'), 'text/event-stream')
        go(server, 'post', '/cancel', '/cancel', 409, {'id': past})
        go(server, 'patch', '/tasks/' + past, '/tasks/{id}', 409, {'message': {}})
        go(server, 'delete', '/tasks/' + past, '/tasks/{id}', 409)
        go(server, 'get', '/tasks/' + past, '/tasks/{id}', 200)
        go(server, 'get', '/events', '/events', 200)
        go(server, 'get', '/events?q=now', '/events', 200)
        go(server, 'get', '/events?limit=0', '/events', 400)
        go(server, 'get', '/events?after=' + NONE, '/events', 404)
        go(server, 'delete', '/events?start_id=' + NONE, '/events', 404)
        go(server, 'delete', '/events', '/events', 400)
        go(server, 'delete', '/events?all=true', '/events', 200)
        go(server, 'post', '/pause', '/pause', 200, {'reason': 'x'})
        go(server, 'post', '/pause', '/pause', 400, {'reason': 7})
        for path in ('/readyz', '/status'):
            go(server, 'get', path, path, 200)
        go(server, 'post', '/resume', '/resume', 200)
        go(server, 'post', '/resume', '/resume', 400, [])
        for path in ('/openapi.json', '/metrics', '/healthz', '/readyz', '/status', '/backup',
                     *self.page):
            go(server, 'get', path, path, 200)

    def exercise_sinks(self, server):
        go = self.exercise
        dead = '/sinks/{name}/dead'
        task = server.schedule('dead', 0)
        support.wait_for(lambda: task in [letter['id'] for letter in
                                          server.page('/sinks/valve/dead')['data']])
        go(server, 'get', '/sinks', '/sinks', 200)
        page = go(server, 'get', '/sinks/valve/dead?limit=1', dead, 200)
        self.assertEqual(page['page_info']['count'], 1)
        go(server, 'get', '/sinks/valve/dead?limit=x', dead, 400)
        go(server, 'get', '/sinks/pump/dead', dead, 404)
        for deed in ('pause', 'redeliver', 'resume'):
            template = '/sinks/{name}/' + deed
            go(server, 'post', '/sinks/valve/' + deed, template, 200)
            go(server, 'post', '/sinks/pump/' + deed, template, 404)
        go(server, 'delete', '/sinks/valve', '/sinks/{name}', 409)
        go(server, 'delete', '/sinks/pump', '/sinks/{name}', 404)
        go(server, 'delete', '/sinks/unlisted', '/sinks/{name}', 200)
        deed = '/sinks/{name}/redeliver'
        go(server, 'post', '/sinks/valve/redeliver', deed, 200, {'id': task})
        go(server, 'post', '/sinks/valve/redeliver', deed, 404, {'id': NONE})
        go(server, 'post', '/sinks/valve/redeliver', deed, 400, [])

    def concrete(self, template):
        return template.replace('{id}', NONE).replace('{name}', 'valve')

    def exercise_refusals(self, server):
        go = self.exercise
        guarded = self.server(env={'SCHEDULER_SECRET': 's'})
        for template, item in self.document['paths'].items():
            path = self.concrete(template)
            for method in set(item) - {'parameters'}:
                body = {} if method in ('post', 'put', 'patch') else None
                self.exercise_unknown_parameter(server, method, template, item[method], body)
                if '401' in item[method]['responses']:
                    go(guarded, method, path, template, 401, body)
                go(server, method, path, template, 403, body, {'Origin': 'http://a.example'})
                if '413' in item[method]['responses']:
                    go(server, method, path, template, 413, 'x' * 3000)
                    go(server, method, path, template, 415, 'x', {'Content-Encoding': 'gzip'})

    def exercise_unknown_parameter(self, server, method, template, operation, body):
        """The server knows the query parameters that are described, and no other."""
        path = self.concrete(template) + '?misspelt=1'
        if template in ('/', '/healthz', '/readyz', '/metrics', '/openapi.json'):
            self.assertEqual(server.ask(method.upper(), path)[0], 200, path)
            return
        errors = self.exercise(server, method, path, template, 400, body)['errors']
        described = [one['name'] for one in operation.get('parameters', [])
                     if one['in'] == 'query']
        self.assertEqual(len(errors), 1, errors)
        self.assertEqual(re.findall(r'"(\w+)"', errors[0]), ['misspelt', *described], errors)

    def exercise_limits(self):
        go = self.exercise
        small = self.server('--max-bytes', '500')
        task = {'delay': 3600, 'message': 'x' * 150}
        one = go(small, 'post', '/schedule', '/schedule', 200, task)['id']
        go(small, 'post', '/schedule', '/schedule', 507, task)
        go(small, 'put', '/tasks/valve', '/tasks/{id}', 507, task)
        go(small, 'patch', '/tasks/' + one, '/tasks/{id}', 507, {'message': 'x' * 400})
        # A journal that was written in the future: this clock is behind it.
        small.stop()
        with open(small.journal) as file:
            text = file.read()
        with open(small.journal, 'w') as file:
            file.write(text + '{"op":"clock","at":"2999-01-01T00:00:00.000Z","crc":"c8753565"}\n')
        small.start()
        go(small, 'post', '/schedule', '/schedule', 503, task)
        go(small, 'put', '/tasks/valve', '/tasks/{id}', 503, task)
        go(small, 'get', '/readyz', '/readyz', 503)
        refused = 'task_scheduler_requests_refused_total{reason="unavailable"} 2\n'
        self.assertIn(refused, small.ask('GET', '/metrics')[2].decode(), 'a probe is no refusal')

    def test_a_public_validator_finds_the_description_valid(self):
        install()
        server = self.server()
        path = os.path.join(server.dir, 'openapi.json')
        with open(path, 'w') as file:
            json.dump(server.ask('GET', '/openapi.json')[2], file)
        done = subprocess.run(['npx', '--no-install', 'validate-api', path], cwd=support.WORK,
                              capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
