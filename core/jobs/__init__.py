"""The queue in the database: what a job is, who may change it, and how it is found again.

The database is the queue. A message on Redis only says "there is work"; losing or doubling one changes
nothing. No torch, no FastAPI and no Celery in here.

======================  =========================================================================
``states.py``           the states and who moves a job from one to the next
``tables``              the tables
``transitions.py``      the only code that writes a job's state, and its event with it
``conditions.py``       which jobs are ready for a worker, and in what order
``submit.py``           a new job
``claims.py``           taking work under a lease, keeping the lease, giving it back
``results.py``          finishing: prediction, failure, cancellation
``batches.py``          a new batch: many jobs at once
``batch_changes.py``    canceling a batch, repeating what failed of it
``batch_queries.py``    reading batches and their results
``completion.py``       when a batch ends, and what is told of it meanwhile
``rescue.py``           what happens to jobs whose worker or deadline is gone; how many are ready
``workers.py``          which worker processes there are
``retention.py``        removing jobs, and bytes to which nothing refers any longer
``webhooks.py``         who is told of an end: receivers, deliveries written with the end
``webhook_secrets.py``  what signs them, and for how long still
``deliveries.py``       sending them: due, attempts, schedule, disabling
``delivery_log.py``     what an owner sees of them: attempts, redelivery, a test ping
``signatures.py``       Standard Webhooks' secrets and signatures
``explanations.py``     the methods of a running job: start, progress, end, reuse
``statements.py``       what statements share that are made once or given many values
``events.py``           the numbered log behind polling, streaming and webhooks
``queries.py``          reading
``places.py``           where a waiting job stands in its queue
``statistics.py``       what the last minute was like, for metrics
======================  =========================================================================
"""
