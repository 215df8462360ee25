# SPDX-License-Identifier: MIT
"""Clocks that are wrong: the real binary with its wall clock moved by a preloaded library."""

import support
from support import WithClock


class Clock(WithClock):
    def test_a_step_forward_emits_at_once_and_late_and_a_step_back_emits_nothing_twice(self):
        server = self.server(env=self.env)
        stream = self.opened(server.stream())
        hour = server.schedule('in an hour', 3600)
        self.set_clock(7200)
        woken = server.schedule('wakes the thread', 0)  # the kernel's wait knows no step
        self.assertEqual({event.id for event in stream.messages(2)}, {woken, hour})
        self.assertGreater(server.ask('GET', '/tasks/' + hour)[2]['late_ms'], 3_500_000)
        self.set_clock(-7200)
        later = server.schedule('later', 60)
        self.set_clock(0)
        self.assertEqual(server.pending(), 1)
        self.assertEqual(server.ask('GET', '/tasks/' + later)[2]['status'], 'pending')
        self.assertEqual(len(server.ask('GET', '/events')[2]['data']), 2)

    def test_a_clock_that_starts_behind_the_journal_is_not_trusted_until_told(self):
        server = self.server(env=self.env)
        task = server.schedule('x', 3600)
        server.kill()
        self.set_clock(-86_400)
        server.start()
        status, headers, answer = server.ask('POST', '/schedule', {'delay': 1, 'message': 'x'})
        self.assertEqual(status, 503)
        self.assertIn('clock', answer['errors'][0])
        self.assertIn('Retry-After', headers)
        self.assertEqual(server.ask('GET', '/readyz')[0], 503)
        self.assertEqual(server.ask('GET', '/tasks/' + task)[0], 200)
        self.set_clock(0)
        self.assertEqual(server.ask('POST', '/schedule', {'delay': 900, 'message': 'x'})[0], 200)
        self.assertEqual(server.ask('GET', '/readyz')[0], 200)
        server.stop()
        self.set_clock(-86_400)
        server.flags = ('--trust-clock',)
        server.start()
        self.assertEqual(server.ask('POST', '/schedule', {'delay': 1, 'message': 'x'})[0], 200)
        server.stop()
        server.flags = ()
        server.start()
        self.assertEqual(server.ask('GET', '/readyz')[0], 200)
        server.until_logged('the clock is trusted')

    def test_what_is_far_too_late_is_given_up_where_that_is_wanted(self):
        server = self.server('--max-lateness', '1h', env=self.env)
        missed = server.schedule('missed', 60)
        late = server.schedule('late', 7000)
        server.kill()
        self.set_clock(7200)
        server.start()
        support.wait_for(lambda: server.ask('GET', '/tasks/' + missed)[2]['status'] == 'missed')
        self.assertEqual([event['id'] for event in server.ask('GET', '/events')[2]['data']], [late])
        server.until_logged('they are missed')
